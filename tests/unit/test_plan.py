"""The plan: who should train which chunk."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.shards.plan import owners, quantised, shard

names = st.lists(st.text("abcdef0123", min_size=1, max_size=8), min_size=1, max_size=9, unique=True)


@given(names, st.integers(1, 400), st.integers(0, 2**31))
def test_every_chunk_is_planned_for_exactly_one_member(members: list[str], chunks: int, seed: int) -> None:
    weights = dict.fromkeys(members, 1.0)
    shards = [shard(member, weights, chunks, seed) for member in members]
    assert sorted(np.concatenate(shards).tolist()) == list(range(chunks))


@given(names, st.integers(1, 400), st.integers(0, 2**31))
def test_a_member_that_leaves_moves_only_its_own_chunks(members: list[str], chunks: int, seed: int) -> None:
    before = owners([1.0] * len(members), members, chunks, seed)
    after = owners([1.0] * len(members[1:]), members[1:], chunks, seed) if len(members) > 1 else before
    kept = before != 0
    if len(members) > 1:
        assert np.array_equal(before[kept] - 1, after[kept])


@settings(max_examples=25)
@given(st.integers(2, 12), st.integers(0, 2**31))
def test_shares_follow_the_weights_within_five_percent_of_all_at_a_hundred_chunks_a_peer(
    n: int, seed: int
) -> None:
    weights = {f"p{index}": float(1 + index % 3) for index in range(n)}
    chunks = 100 * n
    total = sum(weights.values())
    for member, weight in weights.items():
        share = len(shard(member, weights, chunks, seed)) / chunks
        # binomial: three standard deviations of a share, beside the five percent that are allowed
        slack = 0.05 + 3 * (weight / total * (1 - weight / total) / chunks) ** 0.5
        assert abs(share - weight / total) <= slack


def test_a_heavier_member_only_gains_chunks() -> None:
    light = {"a": 1.0, "b": 1.0, "c": 1.0}
    heavy = {"a": 1.0, "b": 2.0, "c": 1.0}
    for member in "ac":
        assert set(shard(member, heavy, 500, 1)) <= set(shard(member, light, 500, 1))
    assert set(shard("b", light, 500, 1)) <= set(shard("b", heavy, 500, 1))


def test_a_stranger_has_no_shard() -> None:
    assert shard("x", {"a": 1.0}, 10, 1).size == 0


@given(st.floats(0.01, 1000))
def test_a_quantised_weight_is_within_nine_percent_and_stable(weight: float) -> None:
    assert abs(np.log(quantised(weight) / weight)) <= np.log(2) / 8 + 1e-9
    assert quantised(quantised(weight)) == quantised(weight)


def test_a_senseless_weight_counts_as_one() -> None:
    assert quantised(0.0) == quantised(-1.0) == quantised(float("nan")) == 1.0
