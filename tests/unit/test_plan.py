"""The plan: who should train which chunk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.membership.members import MOST_WEIGHT
from gossip_caffe.shards.plan import bounded_counts, owners, planned_weights, quantised, shard

names = st.lists(st.text("abcdef0123", min_size=1, max_size=8), min_size=1, max_size=9, unique=True)
seeds = st.integers(0, 2**31)
member_sets = st.dictionaries(
    st.text("abcdef0123", min_size=1, max_size=8),
    st.sampled_from([0.5, 1.0, 2.0, 3.0]),
    min_size=2,
    max_size=12,
)


def planned(weights: dict[str, float], chunks: int, seed: int) -> list[str]:
    """The member of each chunk."""
    members = sorted(weights)
    return [members[index] for index in owners([weights[name] for name in members], members, chunks, seed)]


def moved(before: list[str], after: list[str]) -> int:
    return sum(old != new for old, new in zip(before, after, strict=True))


@given(names, st.integers(1, 400), seeds)
def test_every_chunk_is_planned_for_exactly_one_member(members: list[str], chunks: int, seed: int) -> None:
    weights = dict.fromkeys(members, 1.0)
    shards = [shard(member, weights, chunks, seed) for member in members]
    assert sorted(np.concatenate(shards).tolist()) == list(range(chunks))


@settings(max_examples=60)
@given(member_sets, seeds)
def test_shares_are_within_five_percent_of_the_weights_at_a_hundred_chunks_a_peer(
    weights: dict[str, float], seed: int
) -> None:
    chunks = 100 * len(weights)
    plan = planned(weights, chunks, seed)
    for member, weight in weights.items():
        quota = chunks * weight / sum(weights.values())
        assert abs(plan.count(member) - quota) <= max(0.05 * quota, 1.0)


@settings(max_examples=60)
@given(member_sets, seeds, st.data())
def test_one_member_that_joins_or_leaves_moves_its_own_share_and_little_more(
    weights: dict[str, float], seed: int, data: st.DataObject
) -> None:
    """Read one way for the leave, the other way for the join of the same member."""
    n, chunks = len(weights), 100 * len(weights)
    leaver = data.draw(st.sampled_from(sorted(weights)))
    before = planned(weights, chunks, seed)
    after = planned({name: weight for name, weight in weights.items() if name != leaver}, chunks, seed)
    assert moved(before, after) - before.count(leaver) <= (1 / n + 0.05) * chunks


@pytest.mark.parametrize("n", [2, 3, 4, 6, 10, 20])
def test_in_99_of_100_changes_at_most_five_percent_of_all_chunks_move_beyond_need(n: int) -> None:
    extra = []
    for seed in range(100):
        weights = {f"p{index}": float(1 + index % 3) for index in range(n)}
        before = planned(weights, 100 * n, seed)
        leaver = f"p{seed % n}"
        del weights[leaver]
        after = planned(weights, 100 * n, seed)
        extra.append((moved(before, after) - before.count(leaver)) / (100 * n))
    assert np.quantile(extra, 0.99) <= 0.05
    assert np.mean(extra) <= 0.02


@settings(max_examples=60)
@given(member_sets, seeds, st.data())
def test_a_member_that_becomes_faster_gains_its_share_and_little_else_moves(
    weights: dict[str, float], seed: int, data: st.DataObject
) -> None:
    n, chunks = len(weights), 100 * len(weights)
    faster = data.draw(st.sampled_from(sorted(weights)))
    before = planned(weights, chunks, seed)
    after = planned({**weights, faster: 2 * weights[faster]}, chunks, seed)
    need = abs(after.count(faster) - before.count(faster))
    assert moved(before, after) - need <= (1 / n + 0.05) * chunks


@given(st.lists(st.integers(0, 200), min_size=1, max_size=12), st.data())
def test_bounded_counts_keep_the_sum_and_stay_within_the_tolerance_or_one_chunk(
    counts: list[int], data: st.DataObject
) -> None:
    weights = np.array([data.draw(st.floats(0.1, 10.0)) for _ in counts])
    bounded = bounded_counts(np.array(counts), weights)
    quota = sum(counts) * weights / weights.sum()
    assert bounded.sum() == sum(counts)
    assert np.all(np.abs(bounded - quota) <= np.maximum(0.04 * quota, 1.0) + 1e-9)


@given(names, st.integers(1, 50), seeds)
def test_the_plan_does_not_depend_on_the_order_of_the_members(
    members: list[str], chunks: int, seed: int
) -> None:
    first, *_ = members
    forth, back = dict.fromkeys(members, 1.0), dict.fromkeys(reversed(members), 1.0)
    assert shard(first, forth, chunks, seed).tolist() == shard(first, back, chunks, seed).tolist()


def test_with_more_members_than_chunks_nobody_has_two() -> None:
    weights = {f"p{index}": 1.0 for index in range(1000)}
    assert max(np.bincount(owners(list(weights.values()), list(weights), 400, 1))) == 1


def test_a_stranger_has_no_shard() -> None:
    assert shard("x", {"a": 1.0}, 10, 1).size == 0


@given(st.floats(0.01, 1e6))
def test_a_quantised_weight_is_within_three_percent_and_stable(weight: float) -> None:
    assert abs(np.log(quantised(weight) / weight)) <= np.log(2) / 32 + 1e-9
    assert quantised(quantised(weight)) == quantised(weight)


def test_a_senseless_weight_is_not_known() -> None:
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        assert quantised(weight) == 0.0
        assert planned_weights({"a": 30.0, "b": weight, "c": 10.0, "d": 20.0})["b"] == 20.0


def test_while_nobody_is_measured_all_shares_are_alike() -> None:
    assert planned_weights(dict.fromkeys("abc", 0.0)) == dict.fromkeys("abc", 1.0)


@given(st.dictionaries(st.text(min_size=1), st.floats(0, 1e6), min_size=1))
def test_everybody_has_a_weight_and_a_measured_one_is_its_own(measured: dict[str, float]) -> None:
    planned = planned_weights(measured)
    assert planned.keys() == measured.keys()
    assert all(weight > 0 for weight in planned.values())
    assert all(planned[member] == weight for member, weight in measured.items() if weight > 0)


def test_a_peer_three_times_slower_is_planned_a_third_of_a_fast_peers_chunks() -> None:
    weights = planned_weights({"a": 900.0, "b": 900.0, "c": 900.0, "slow": 300.0})
    shares = {member: len(shard(member, weights, 400, 1)) for member in weights}
    assert sum(shares.values()) == 400
    for fast in "abc":
        assert shares["slow"] / shares[fast] == pytest.approx(1 / 3, rel=0.1)


@given(
    st.lists(st.sampled_from([5e-324, 1e-300, 1e-9, 1.0, 700.0, MOST_WEIGHT]), min_size=1, max_size=9),
    st.integers(1, 400),
    seeds,
)
def test_weights_of_any_size_beside_each_other_are_planned_with_in_silence(
    weights: list[float], chunks: int, seed: int
) -> None:
    with np.errstate(all="raise", under="ignore"):
        owner = owners(weights, [f"p{n}" for n in range(len(weights))], chunks, seed)
    assert owner.shape == (chunks,)
    assert 0 <= owner.min() <= owner.max() < len(weights)
