"""The exchange protocol: whole or not at all, the sum conserved, whatever the network does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.clock import SystemClock
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.average import distance
from gossip_caffe.gossip.exchange import Exchanger, OutcomeKind
from gossip_caffe.gossip.memory_transport import MemoryNetwork
from gossip_caffe.gossip.message import Message, Refusal
from gossip_caffe.solver.board import SnapshotInfo

SIZE = 33


class Weights:
    """A peer's weights without a solver: a correction is in the next snapshot."""

    def __init__(self, seed: int, size: int = SIZE) -> None:
        self.values = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
        self.applied = 0

    @property
    def size(self) -> int:
        return self.values.size

    def snapshot(self, out: np.ndarray) -> SnapshotInfo:
        np.copyto(out, self.values)
        return SnapshotInfo(self.applied, 0, 0, 0, 0)

    def add_correction(self, delta: np.ndarray) -> None:
        self.values = self.values + delta
        self.applied += 1


class Net:
    """Some peers on one network."""

    def __init__(self, count: int, codec: str = "float32") -> None:
        self.network = MemoryNetwork()
        self.weights = {f"p{index}": Weights(index) for index in range(count)}
        self.peers = {name: self.exchanger(name, weights, codec) for name, weights in self.weights.items()}
        self.network.peers.update(self.peers)

    def exchanger(self, name: str, weights: Weights, codec: str, fingerprint: str = "layout") -> Exchanger:
        made = Exchanger(
            peer=name,
            job="job",
            fingerprint=fingerprint,
            codec=codec,
            weights=weights,
            transport=self.network,
            clock=SystemClock(),
            rng=random.Random(name),
        )
        made.accepting = None
        return made

    @property
    def total(self) -> np.ndarray:
        total: np.ndarray = sum(weights.values.astype(np.float64) for weights in self.weights.values())  # type: ignore[assignment]
        return total

    def spread(self) -> float:
        values = [weights.values for weights in self.weights.values()]
        return max(distance(a, b) for a in values for b in values)


async def test_an_exchange_brings_both_sides_to_the_middle() -> None:
    net = Net(2)
    middle = net.total / 2
    outcome = await net.peers["p0"].offer_to("p1", "p1")
    assert outcome.kind is OutcomeKind.APPLIED
    for weights in net.weights.values():
        np.testing.assert_allclose(weights.values, middle, atol=1e-6)


async def test_with_a_lossy_codec_the_sum_is_kept_to_rounding() -> None:
    net = Net(2, "float16")
    before = net.total
    await net.peers["p0"].offer_to("p1", "p1")
    np.testing.assert_allclose(net.total, before, atol=1e-6)


def scripted(order: list[int]) -> Callable[[Message], Awaitable[Message]]:
    """A hook that delays each message by as many turns of the loop as the script says."""

    async def hold(message: Message) -> Message:
        for _ in range(order.pop() if order else 0):
            await asyncio.sleep(0)
        return message

    return hold


@settings(max_examples=150)
@given(
    st.integers(2, 4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12),
    st.data(),
)
def test_the_sum_is_conserved_under_any_order_of_messages(
    count: int, offers: list[tuple[int, int]], data: st.DataObject
) -> None:
    net = Net(count)
    before = net.total
    delays = data.draw(st.lists(st.integers(0, 7), min_size=2 * len(offers), max_size=2 * len(offers)))
    net.network.before_offer = scripted(delays)
    net.network.before_answer = scripted(delays)

    async def peer(name: str) -> None:
        for offerer, partner in offers:
            if f"p{offerer % count}" == name and partner % count != offerer % count:
                await net.peers[name].offer_to(f"p{partner % count}", f"p{partner % count}")

    async def run() -> None:
        await asyncio.gather(*(peer(name) for name in net.peers))

    asyncio.run(run())
    np.testing.assert_allclose(net.total, before, atol=1e-4)
    kinds = {kind for exchanger in net.peers.values() for kind in exchanger.outcomes}
    assert kinds <= {OutcomeKind.APPLIED, OutcomeKind.WITHDRAWN}


async def test_of_two_crossing_offers_the_lower_id_stands_and_nobody_swaps() -> None:
    net = Net(2)
    middle = net.total / 2
    started = asyncio.Barrier(2)

    async def meet(offer: Message) -> Message:
        await started.wait()
        return offer

    net.network.before_offer = meet
    outcomes = await asyncio.gather(
        net.peers["p0"].offer_to("p1", "p1"), net.peers["p1"].offer_to("p0", "p0")
    )
    assert [outcome.kind for outcome in outcomes] == [OutcomeKind.APPLIED, OutcomeKind.WITHDRAWN]
    assert outcomes[1].refusal is Refusal.CROSSING
    for weights in net.weights.values():
        np.testing.assert_allclose(weights.values, middle, atol=1e-6)


@pytest.mark.parametrize("count", [2, 3, 4])
async def test_peers_in_lockstep_converge(count: int) -> None:
    net = Net(count)
    rng = random.Random(7)
    middle = net.total / count
    for _ in range(40):
        names = list(net.peers)
        await asyncio.gather(
            *(
                net.peers[name].offer_to(partner, partner)
                for name in names
                for partner in [rng.choice([other for other in names if other != name])]
            )
        )
    assert net.spread() < 1e-9
    np.testing.assert_allclose(net.weights["p0"].values, middle, atol=1e-4)


async def test_an_answer_that_is_lost_leaves_the_offerer_as_it_was() -> None:
    net = Net(2)

    async def lose(message: Message) -> Message:
        raise ExchangeFailed("the answer was lost")

    net.network.before_answer = lose
    before = net.weights["p0"].values
    outcome = await net.peers["p0"].offer_to("p1", "p1")
    assert outcome.kind is OutcomeKind.FAILED
    assert net.weights["p0"].values is before
    assert net.weights["p1"].applied == 1


async def test_a_repeated_offer_gets_the_same_answer_and_is_applied_once() -> None:
    net = Net(2)
    seen: list[Message] = []

    async def twice(offer: Message) -> Message:
        seen.append(await net.peers["p1"].answer(offer))
        return offer

    net.network.before_offer = twice
    outcome = await net.peers["p0"].offer_to("p1", "p1")
    assert outcome.kind is OutcomeKind.APPLIED
    assert net.weights["p1"].applied == 1
    assert net.weights["p0"].applied == 1


@pytest.mark.parametrize(
    ("spoil", "refusal"),
    [
        (lambda m: replace(m, payload=m.payload[:-1]), Refusal.CORRUPT_FRAME),
        (lambda m: replace(m, payload=b""), Refusal.CORRUPT_FRAME),
        (lambda m: replace(m, values=SIZE + 1), Refusal.LAYOUT_MISMATCH),
        (lambda m: replace(m, fingerprint="another"), Refusal.LAYOUT_MISMATCH),
        (lambda m: replace(m, codec="morse"), Refusal.UNKNOWN_CODEC),
        (lambda m: replace(m, payload=np.full(SIZE, np.nan, "<f4").tobytes()), Refusal.NON_FINITE),
        (lambda m: replace(m, payload=np.full(SIZE, np.inf, "<f4").tobytes()), Refusal.NON_FINITE),
    ],
)
@pytest.mark.parametrize("side", ["offer", "answer"])
async def test_what_is_not_whole_is_never_applied(
    spoil: Callable[[Message], Message], refusal: Refusal, side: str
) -> None:
    net = Net(2)

    async def spoilt(message: Message) -> Message:
        return spoil(message)

    if side == "offer":
        net.network.before_offer = spoilt
    else:
        net.network.before_answer = spoilt
    before = net.weights["p0"].values
    outcome = await net.peers["p0"].offer_to("p1", "p1")
    assert outcome.refusal is refusal
    assert outcome.kind is (OutcomeKind.REFUSED if side == "offer" else OutcomeKind.REJECTED)
    assert net.weights["p0"].values is before
    assert net.weights["p1"].applied == (0 if side == "offer" else 1)


async def test_a_peer_with_nan_of_its_own_neither_offers_nor_answers() -> None:
    net = Net(2)
    net.weights["p0"].values[3] = np.nan
    assert (await net.peers["p0"].offer_to("p1", "p1")).refusal is Refusal.NON_FINITE
    assert (await net.peers["p1"].offer_to("p0", "p0")).refusal is Refusal.NON_FINITE
    assert net.weights["p0"].applied == net.weights["p1"].applied == 0


async def test_a_stranger_gets_a_reason() -> None:
    net = Net(1)
    stranger = net.exchanger("stranger", Weights(9), "float32", fingerprint="of another net")
    outcome = await stranger.offer_to("p0", "p0")
    assert outcome.refusal is Refusal.LAYOUT_MISMATCH
    assert "layout" in outcome.reason


async def test_a_peer_that_has_not_loaded_the_consensus_refuses_and_is_left_as_it_is() -> None:
    net = Net(2)
    net.peers["p1"].accepting = Refusal.NOT_TRAINING
    outcome = await net.peers["p0"].offer_to("p1", "p1")
    assert (outcome.kind, outcome.refusal) == (OutcomeKind.REFUSED, Refusal.NOT_TRAINING)
    assert net.weights["p1"].applied == 0


async def test_a_new_exchanger_does_not_accept_before_it_is_told_to() -> None:
    assert (
        Exchanger(
            peer="p",
            job="job",
            fingerprint="f",
            codec="float32",
            weights=Weights(1),
            transport=MemoryNetwork(),
            clock=SystemClock(),
            rng=random.Random(1),
        ).accepting
        is Refusal.NOT_TRAINING
    )


async def test_offers_of_others_are_answered_while_an_own_offer_is_in_flight() -> None:
    net = Net(3)
    held = asyncio.Event()

    async def hold_p0s(offer: Message) -> Message:
        if offer.peer == "p0":
            await held.wait()
        return offer

    net.network.before_offer = hold_p0s
    own = asyncio.create_task(net.peers["p0"].offer_to("p1", "p1"))
    await asyncio.sleep(0)
    assert (await net.peers["p2"].offer_to("p0", "p0")).kind is OutcomeKind.APPLIED
    held.set()
    assert (await own).kind is OutcomeKind.APPLIED
