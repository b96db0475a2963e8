"""A consensus: the mean of all who show their weights whole, whoever fails on the way, in one vector's memory."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.codecs.message import FramesCorrupt, Message, Payload, Refusal
from gossip_caffe.gossip.consensus import PIECE_VALUES, Consensus, consensus, mean_of
from gossip_caffe.gossip.protocol.snapshot_stream import PiecewiseReader, SnapshotReader, whole
from gossip_caffe.gossip.protocol.transport import Transport

SIZE = 2 * PIECE_VALUES + 77
REQUEST = Message("", "me", "job", "layout")


def weights(seed: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32)


class Peers:
    """Who shows which weights; ``faults``: how many bytes of them come before the stream breaks, or what is refused."""

    def __init__(self, values: Mapping[str, np.ndarray], faults: Mapping[str, int | Message] | None = None):
        self.values, self.faults = values, faults or {}
        self.asked: list[str] = []
        self.open = 0

    @property
    def addresses(self) -> dict[str, str]:
        return {peer: f"at {peer}" for peer in self.values}

    @property
    def transport(self) -> Transport:
        return cast("Transport", self)

    async def snapshot(self, address: str, request: Message, deadline_s: float) -> SnapshotReader:
        assert deadline_s > 0
        peer = address.removeprefix("at ")
        self.asked.append(peer)
        payload = self.values[peer].view(np.uint8).data
        header = Message("", peer, request.job, "layout", codec="float32", values=self.values[peer].size)
        fault = self.faults.get(peer)
        if isinstance(fault, Message):
            return whole(replace(fault, payload=payload))
        if fault == 0:
            raise ExchangeFailed("nobody there")

        async def pieces() -> AsyncIterator[Payload]:
            step, most = 700_001, len(payload) if fault is None else fault
            for start in range(0, len(payload), step):  # never in step with the pieces that are averaged
                if start + step > most:
                    yield payload[start:most]
                    if fault is not None:
                        raise FramesCorrupt("cut")
                    return
                yield payload[start : start + step]

        self.open += 1
        return PiecewiseReader(header, len(payload), pieces(), self._closed)

    def _closed(self) -> None:
        self.open -= 1


def own(values: np.ndarray) -> Any:
    def newest(out: np.ndarray) -> str:
        np.copyto(out, values)
        return "what the board says"

    return newest


def mean(*vectors: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.mean(np.stack(vectors).astype(np.float64), axis=0).astype(np.float32)
    return found


async def agreed(peers: Peers, mine: np.ndarray, most: int = 8) -> Consensus:
    said, found = await consensus(
        REQUEST, mine.size, own(mine), peers.addresses, peers.transport, random.Random(1), most=most
    )
    assert said == "what the board says"
    assert peers.open == 0
    return found


async def test_a_consensus_is_the_mean_of_all_rounded_once() -> None:
    peers = Peers({"a": weights(1), "b": weights(2)})
    found = await agreed(peers, weights(0))
    assert found.contributors[0] == "me"
    assert set(found.contributors) == {"me", "a", "b"}
    expected = (
        (weights(0).astype(np.float64) + peers.values[found.contributors[1]])
        + peers.values[found.contributors[2]]
    ) / 3
    assert np.array_equal(found.weights, expected.astype(np.float32))


@settings(max_examples=30, deadline=None)
@given(
    faults=st.lists(
        st.one_of(st.none(), st.integers(0, 4 * SIZE - 1), st.just("NaN")), min_size=0, max_size=5
    ),
    with_own=st.booleans(),
)
def test_whoever_fails_on_the_way_leaves_no_trace(faults: list[Any], with_own: bool) -> None:
    values = {f"p{index}": weights(index + 1) for index in range(len(faults))}
    for (peer, vector), fault in zip(values.items(), faults, strict=True):
        if fault == "NaN":
            vector[hash(peer) % SIZE] = np.nan
    cut = {f"p{index}": fault for index, fault in enumerate(faults) if isinstance(fault, int)}
    whole_ones = {f"p{index}" for index, fault in enumerate(faults) if fault is None}
    peers = Peers(values, cut)
    mine = weights(0)
    if with_own:
        found: Consensus | None = asyncio.run(agreed(peers, mine))
    else:
        asking = mean_of(REQUEST, SIZE, peers.addresses, peers.transport, random.Random(1), most=8)
        found = asyncio.run(cast("Any", asking))
    if not whole_ones and not with_own:
        assert found is None
        return
    assert found is not None
    assert set(found.contributors) - {"me"} == whole_ones
    expected = mean(*([mine] if with_own else []), *(values[peer] for peer in whole_ones))
    np.testing.assert_allclose(found.weights, expected, atol=1e-7)


@pytest.mark.parametrize(
    "answer",
    [
        Message("", "b", "job", "layout", refusal=Refusal.NOT_TRAINING),
        Message("", "b", "job", "another layout", codec="float32", values=SIZE),
        Message("", "b", "job", "layout", codec="float32", values=SIZE - 1),
        Message("", "b", "job", "layout", codec="float16", values=SIZE),
    ],
)
async def test_who_refuses_or_shows_something_else_is_left_out(answer: Message) -> None:
    peers = Peers({"a": weights(1), "b": weights(2)}, {"b": answer})
    found = await agreed(peers, weights(0))
    assert found.contributors == ("me", "a")
    assert np.array_equal(found.weights, mean(weights(0), weights(1)))
    assert peers.asked.count("a") == 1  # the others go on without


async def test_own_weights_that_are_not_finite_are_no_consensus() -> None:
    mine = weights(0)
    mine[7] = np.inf
    with pytest.raises(ExchangeFailed, match="NaN or Inf"):
        await agreed(Peers({"a": weights(1)}), mine)


@pytest.mark.parametrize("most", [1, 3, 8, 1000])
async def test_no_more_contribute_than_the_job_says(most: int) -> None:
    peers = Peers({f"p{index}": weights(index, 10) for index in range(20)})
    found = await agreed(peers, weights(99, 10), most)
    assert len(found.contributors) == min(most, 21) == len(peers.asked) + 1


async def test_one_vector_is_held_however_many_contribute() -> None:
    size = 8 * PIECE_VALUES
    peers = Peers({f"p{index}": weights(index, size) for index in range(7)})
    mine = weights(99, size)
    tracemalloc.start()
    try:
        await agreed(peers, mine)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    pieces = 7 + 4  # one of each, and one in float64 with what it takes to add to it
    assert peak < 4 * size + pieces * 4 * PIECE_VALUES + (1 << 20)


SMALL = 5_000


def near(count: int, size: int = SMALL) -> dict[str, np.ndarray]:
    """Peers that train one model."""
    common, rng = weights(0, size), np.random.default_rng(1)
    return {f"p{index}": common + rng.normal(0, 0.02, size).astype(np.float32) for index in range(count)}


def one_huge(values: np.ndarray) -> np.ndarray:
    spoilt = values.copy()
    spoilt[values.size // 3] = 1e38
    return spoilt


SPOILT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "huge": lambda values: np.full_like(values, 1e30),
    "zeros": np.zeros_like,
    "flip": np.negative,
    "noise": lambda values: weights(9, values.size),
    "one huge": one_huge,
    "ten times": lambda values: 10 * values,
}


@pytest.mark.parametrize("size", [SMALL, SIZE])
@pytest.mark.parametrize("name", SPOILT)
async def test_who_is_too_far_from_the_others_is_left_out_and_named(name: str, size: int) -> None:
    values = near(4, size)
    mine = values.pop("p0")
    values["p2"] = SPOILT[name](values["p2"])
    peers = Peers(values)
    _, agreed = await consensus(
        REQUEST, size, own(mine), peers.addresses, peers.transport, random.Random(1), most=8, half_limit=0.25
    )
    assert set(agreed.contributors) == {"me", "p1", "p3"}
    assert list(agreed.left_out) == ["p2"]
    assert agreed.left_out["p2"] > 0.25
    np.testing.assert_allclose(agreed.weights, (mine + values["p1"] + values["p3"]) / 3, atol=1e-5)


async def test_the_own_weights_are_left_out_where_they_are_the_ones_that_are_far() -> None:
    values = near(4)
    mine = -values.pop("p0")
    peers = Peers(values)
    _, agreed = await consensus(
        REQUEST, SMALL, own(mine), peers.addresses, peers.transport, random.Random(1), most=8, half_limit=0.25
    )
    assert set(agreed.contributors) == set(values)
    assert list(agreed.left_out) == ["me"]
    np.testing.assert_allclose(agreed.weights, sum(values.values()) / 3, atol=1e-5)


async def test_where_there_is_no_majority_the_own_side_is_the_consensus() -> None:
    for apart, near_me in ((1, set()), (2, {"p1"})):
        values = near(apart * 2)
        mine = values.pop("p0")
        for peer in sorted(values)[-apart:]:
            values[peer] = -values[peer]
        peers = Peers(values)
        _, agreed = await consensus(
            REQUEST,
            SMALL,
            own(mine),
            peers.addresses,
            peers.transport,
            random.Random(1),
            most=8,
            half_limit=0.25,
        )
        assert set(agreed.contributors) == {"me"} | near_me
        assert set(agreed.left_out) == set(values) - near_me


async def test_a_mean_without_own_weights_leaves_the_far_one_out_of_three() -> None:
    values = near(3)
    values["p1"] = np.zeros_like(values["p1"])
    peers = Peers(values)
    agreed = await mean_of(
        REQUEST, SMALL, peers.addresses, peers.transport, random.Random(1), most=8, half_limit=0.75
    )
    assert agreed is not None
    assert set(agreed.contributors) == {"p0", "p1", "p2"}  # in halves it is 0.5 away
    agreed = await mean_of(
        REQUEST, SMALL, peers.addresses, peers.transport, random.Random(1), most=8, half_limit=0.25
    )
    assert agreed is not None
    assert set(agreed.contributors) == {"p0", "p2"}


async def test_without_a_limit_all_are_in_it_and_so_are_all_honest_ones_with_one() -> None:
    values = near(5)
    mine = values.pop("p0")
    for half_limit in (0.0, 0.25):
        peers = Peers(values)
        _, agreed = await consensus(
            REQUEST,
            SMALL,
            own(mine),
            peers.addresses,
            peers.transport,
            random.Random(1),
            most=8,
            half_limit=half_limit,
        )
        assert set(agreed.contributors) == {"me", *values}
        assert len(peers.asked) == len(values)  # once
