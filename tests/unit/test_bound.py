"""bounded-half: a partner that is alive and wrong costs an exchange, never a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.gossip.averaging import compiled
from gossip_caffe.gossip.averaging.average import HalfStats, halve
from gossip_caffe.gossip.averaging.bound import (
    FARTHEST,
    SPREAD,
    WARM_AFTER,
    WARMING,
    WIDEST,
    Bound,
    Reach,
    limit_of,
    reach,
)
from gossip_caffe.gossip.codecs.codec import CODECS
from gossip_caffe.gossip.codecs.message import Message, Refusal
from gossip_caffe.gossip.codecs.narrow import FLOAT16_MAX
from gossip_caffe.gossip.protocol import offering
from gossip_caffe.gossip.protocol.one_sided import AppliedHalf
from gossip_caffe.gossip.protocol.outcome import OutcomeKind
from tests.exchange_net import ExchangingPeer, Net, Weights

SIZE = 4096
LIMIT = 0.25
Spoil = Callable[[np.ndarray], np.ndarray]


def noise(values: np.ndarray) -> np.ndarray:
    return np.random.default_rng(5).normal(0, values.std(), values.size).astype(np.float32)


def permuted(values: np.ndarray) -> np.ndarray:
    return np.random.default_rng(5).permutation(values)


def one_exponent_bit(values: np.ndarray) -> np.ndarray:
    spoilt = values.copy()
    spoilt[:1].view(np.uint32)[0] ^= np.uint32(0x4000_0000)  # the highest one: 0.05 becomes 1e37
    return spoilt


def one_huge(values: np.ndarray) -> np.ndarray:
    spoilt = values.copy()
    spoilt[7] = 1e38
    return spoilt


POISONS: dict[str, Spoil] = {
    "huge": lambda values: np.full_like(values, 1e30),
    "flip": lambda values: -values,
    "zeros": np.zeros_like,
    "noise": noise,
    "ten times": lambda values: 10 * values,
    "a tenth": lambda values: values / np.float32(10),
    "permuted": permuted,
    "one exponent bit": one_exponent_bit,
    "one huge": one_huge,
    "largest": lambda values: np.full_like(values, 65504.0),
    "denormal": lambda values: np.full_like(values, 1e-42),
}
NOT_FINITE: dict[str, Spoil] = {
    "nan": lambda values: np.where(np.arange(values.size) == 9, np.nan, values).astype(np.float32),
    "inf": lambda values: np.where(np.arange(values.size) == 9, -np.inf, values).astype(np.float32),
}


@pytest.fixture(autouse=True, scope="module", params=[10**9, 0], ids=["carried", "swapped"])
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test runs twice: weights in the messages, and weights both ways at once."""
    with patch.object(offering, "SWAP_FROM_VALUES", request.param):
        yield


class Told:
    """What a peer's watcher is told."""

    def __init__(self) -> None:
        self.reaches: list[Reach] = []
        self.refusals: list[tuple[str, Refusal]] = []
        self.halves: list[AppliedHalf] = []

    def applied(self, half: AppliedHalf) -> None:
        self.halves.append(half)

    def alone(self, half: AppliedHalf) -> None: ...

    def too_far(self, offer: Message, reach: Reach) -> None:
        self.reaches.append(reach)

    def refused(self, offer: Message, refusal: Refusal, reason: str) -> None:
        self.refusals.append((offer.peer, refusal))


class Pair(Net):
    """Two peers with nearly the same weights; p0 is honest and bounded, p1 sends what ``spoil`` makes of its own."""

    def __init__(
        self,
        spoil: Spoil = lambda values: values,
        codec: str = "float32",
        *,
        half_limit: float = LIMIT,
        warm: bool = True,
        applied: int = WARM_AFTER,
    ) -> None:
        super().__init__(0)
        self.codec, self.told = codec, Told()
        self.half_limit, self.warm = half_limit, warm
        rng = np.random.default_rng(3)
        common = rng.normal(0, 0.05, SIZE).astype(np.float32)
        for index, name in enumerate(("p0", "p1")):
            weights = self.weights[name] = Weights(index, SIZE)
            weights.values = (common + rng.normal(0, 0.001, SIZE)).astype(np.float32)
        self.weights["p1"].values = spoil(self.weights["p1"].values)
        self.peers = {
            "p0": self.bounded("p0", half_limit),
            "p1": self.bounded("p1", 0.0),
        }
        self.peers["p0"].answering.watcher = self.told
        self.network.peers.update({name: peer.answering for name, peer in self.peers.items()})
        for _ in range(applied):
            self.peers["p0"].local.bound.note_applied()
        self.before = self.weights["p0"].values.copy()

    def bounded(self, name: str, half_limit: float) -> ExchangingPeer:
        return ExchangingPeer(
            name,
            self.weights[name],
            self.network,
            codec=self.codec,
            half_limit=half_limit,
            warm=lambda: self.warm,
            blobs=(SIZE,),
        )

    @property
    def untouched(self) -> bool:
        return bool(np.array_equal(self.weights["p0"].values, self.before))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", POISONS)
async def test_an_offer_beyond_the_limit_is_refused_with_nothing_changed(name: str, codec: str) -> None:
    net = Pair(POISONS[name], codec)
    outcome = await net.peers["p1"].offering.offer_to("p0", "p0")
    assert (outcome.kind, outcome.refusal) == (OutcomeKind.REFUSED, Refusal.TOO_FAR)
    assert net.untouched
    assert net.weights["p1"].applied == 0
    assert net.told.refusals == [("p1", Refusal.TOO_FAR)]
    assert net.told.reaches[0].ratio > net.told.reaches[0].limit == LIMIT
    assert net.peers["p0"].local.mean_distance is None


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", POISONS)
async def test_an_answer_beyond_the_limit_is_rejected_with_nothing_changed(name: str, codec: str) -> None:
    net = Pair(POISONS[name], codec)
    outcome = await net.peers["p0"].offering.offer_to("p1", "p1")
    assert (outcome.kind, outcome.refusal) == (OutcomeKind.REJECTED, Refusal.TOO_FAR)
    assert outcome.reach.too_far
    assert outcome.reach.limit == LIMIT
    assert net.untouched
    assert net.peers["p0"].offering.unanswered == 1  # the answerer has its half: it is told, and counts it


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", ["huge", "flip", "one huge", "one exponent bit", "largest"])
async def test_while_it_warms_up_a_peer_refuses_what_is_absurd_all_the_same(name: str, codec: str) -> None:
    for net in (Pair(POISONS[name], codec, applied=0), Pair(POISONS[name], codec, warm=False)):
        assert (await net.peers["p1"].offering.offer_to("p0", "p0")).refusal is Refusal.TOO_FAR
        assert (await net.peers["p0"].offering.offer_to("p1", "p1")).refusal is Refusal.TOO_FAR
        assert net.untouched


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", NOT_FINITE)
async def test_what_is_not_finite_never_leaves_and_never_enters(name: str, codec: str) -> None:
    net = Pair(NOT_FINITE[name], codec)
    assert (await net.peers["p1"].offering.offer_to("p0", "p0")).refusal is Refusal.NON_FINITE
    assert (await net.peers["p0"].offering.offer_to("p1", "p1")).refusal is Refusal.NON_FINITE
    assert net.untouched


async def test_zero_turns_it_off() -> None:
    net = Pair(POISONS["flip"], half_limit=0.0)
    assert (await net.peers["p1"].offering.offer_to("p0", "p0")).kind is OutcomeKind.APPLIED
    assert net.told.halves[0].reach.limit == 0.0
    assert net.told.halves[0].reach.ratio == pytest.approx(1.0, rel=1e-2)


@pytest.mark.parametrize("codec", CODECS)
async def test_an_honest_half_is_applied_and_says_how_far_it_went(codec: str) -> None:
    net = Pair(codec=codec)
    outcome = await net.peers["p0"].offering.offer_to("p1", "p1")
    assert outcome.kind is OutcomeKind.APPLIED
    assert 0 < outcome.reach.ratio < (0.15 if codec == "int4" else 0.05)  # its rounding is that coarse
    assert outcome.reach.limit == LIMIT


async def test_a_joiner_near_zero_comes_to_those_who_are_ahead() -> None:
    net = Pair(
        lambda values: 300 * values, applied=0
    )  # as after the first second of a job that began near zero
    net.weights["p1"].values = (net.weights["p0"].values * 6).astype(np.float32)
    assert (await net.peers["p0"].offering.offer_to("p1", "p1")).kind is OutcomeKind.APPLIED


async def test_who_stops_exchanging_begins_to_warm_up_again_and_applies_nothing_that_was_under_way() -> None:
    net = Pair()
    other = net.peers["p0"]

    async def meanwhile(message: Message) -> Message:
        other.local.accepting = Refusal.NOT_TRAINING
        other.local.accepting = None
        return message

    net.network.before_answer = meanwhile
    outcome = await other.offering.offer_to("p1", "p1")
    assert (outcome.kind, outcome.refusal) == (OutcomeKind.REJECTED, Refusal.NOT_TRAINING)
    assert net.untouched
    assert other.local.bound.warming


async def test_sixteen_halves_end_the_warm_up_of_a_peer() -> None:
    net = Pair(applied=0)
    bound = net.peers["p0"].local.bound
    for _ in range(WARM_AFTER):
        assert bound.warming
        assert (await net.peers["p0"].offering.offer_to("p1", "p1")).kind is OutcomeKind.APPLIED
    assert not bound.warming


lengths = st.floats(0, 1e38, allow_nan=False)


@given(lengths, lengths, lengths, st.floats(0.001, 10), st.booleans(), st.integers(1, 10**9))
def test_what_is_let_through_is_never_longer_than_the_limit_says(
    norm: float, own: float, theirs: float, half_limit: float, warming: bool, values: int
) -> None:
    found = reach(HalfStats(0.0, 0.0, norm, own, theirs), half_limit, warming=warming, values=values)
    assert found.ratio <= FARTHEST
    assert found.limit > 0
    longest = half_limit * own
    if warming:
        longest = WARMING * half_limit * max(own, min(theirs, math.sqrt(values)))
    assert found.too_far == (norm > longest)
    if not found.too_far:
        assert found.ratio <= found.limit * (1 + 1e-9)
    if norm == 0:
        assert not found.too_far


def test_the_own_length_is_that_of_the_exchanged_weights() -> None:
    rng = np.random.default_rng(1)
    mine, theirs = (rng.standard_normal(3 * compiled.BLOCK + 5).astype(np.float32) for _ in range(2))
    norms = [float(np.linalg.norm(side.astype(np.float64))) for side in (mine, theirs)]
    for implementation in (vars(compiled)["arithmetic"], None):
        with patch.object(compiled, "arithmetic", implementation):
            figures = halve(mine, theirs, np.empty_like(mine), weighs_other=True)
            assert [figures.own_norm, figures.their_norm] == pytest.approx(norms, rel=1e-9)
            half = np.clip(theirs, -FLOAT16_MAX, FLOAT16_MAX).astype(np.float16)
            own = compiled.halve(mine, half, np.empty_like(mine), True)[1]
            assert math.sqrt(own) == pytest.approx(norms[0], rel=1e-3)


async def test_an_answer_that_refuses_settles_nothing_and_its_words_are_the_partners() -> None:
    net = Pair()

    async def refuse(answer: Message) -> Message:
        return replace(answer, payload=b"", refusal=Refusal.TOO_FAR, reason="always")

    net.network.before_answer = refuse
    outcome = await net.peers["p0"].offering.offer_to("p1", "p1")
    assert (outcome.kind, outcome.refusal) == (OutcomeKind.REFUSED, Refusal.TOO_FAR)
    assert not outcome.reach.too_far
    assert net.untouched


@given(usual=st.floats(0.0, 10.0), half_limit=st.floats(0.01, 10.0))
def test_the_limit_follows_long_halves_and_never_by_more_than_it_may(usual: float, half_limit: float) -> None:
    limit = limit_of(half_limit, warm=True, usual=usual)
    assert half_limit <= limit <= WIDEST * half_limit
    assert limit == pytest.approx(min(max(half_limit, SPREAD * usual), WIDEST * half_limit))


def test_halves_that_are_long_all_the_time_are_no_poison_and_spoilt_weights_still_are() -> None:
    bound = Bound(LIMIT, SIZE, lambda: True)
    for _ in range(WARM_AFTER):
        bound.note_applied(0.16)
    long = HalfStats(0.09, 0.0, 0.30, own_norm=1.0)
    assert not bound.reach(long).too_far
    for spoilt in (0.5, 0.7, 1.0):  # zeros, noise, flip
        assert bound.reach(HalfStats(spoilt**2, 0.0, spoilt, own_norm=1.0)).too_far
    bound.start_over()
    for _ in range(WARM_AFTER):
        bound.note_applied(0.01)
    assert bound.reach(long).too_far
