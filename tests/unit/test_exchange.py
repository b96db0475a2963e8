"""The exchange protocol: whole or not at all, the sum conserved, whatever the network does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.clock import SystemClock
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.averaging.bound import Reach
from gossip_caffe.gossip.codecs.codec import CODECS
from gossip_caffe.gossip.codecs.message import FramesCorrupt, Message, Refusal, Undelivered
from gossip_caffe.gossip.protocol import local_peer, offering
from gossip_caffe.gossip.protocol.answer_cache import KEPT_ANSWERS
from gossip_caffe.gossip.protocol.offering import Offering
from gossip_caffe.gossip.protocol.one_sided import AppliedHalf
from gossip_caffe.gossip.protocol.outcome import OutcomeKind
from gossip_caffe.gossip.transport.memory_transport import MemoryNetwork, NetworkConditions
from tests.exchange_net import SIZE, ExchangingPeer, Net, Weights, offered_by_p0, slow, spoilt_answer
from tests.fake_clock import FakeClock


@pytest.fixture(autouse=True, scope="module", params=[10**9, 0], ids=["carried", "swapped"])
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test runs twice: weights in the messages, and weights both ways at once."""
    with patch.object(offering, "SWAP_FROM_VALUES", request.param):
        yield


async def test_an_exchange_brings_both_sides_to_the_middle() -> None:
    net = Net(2)
    middle = net.total / 2
    outcome = await net.peers["p0"].offering.offer_to("p1", "p1")
    assert outcome.kind is OutcomeKind.APPLIED
    for weights in net.weights.values():
        np.testing.assert_allclose(weights.values, middle, atol=1e-6)


async def test_with_a_lossy_codec_the_sum_is_kept_to_rounding() -> None:
    net = Net(2, "float16")
    before = net.total
    await net.peers["p0"].offering.offer_to("p1", "p1")
    np.testing.assert_allclose(net.total, before, atol=1e-6)


async def play(net: Net, offers: list[tuple[int, int]], hold: Callable[..., Awaitable[Any]]) -> None:
    """Each peer makes its offers, one after the other, all peers at once."""
    net.network.before_offer = net.network.before_answer = hold
    names = list(net.peers)

    async def peer(name: str) -> None:
        for offerer, partner in offers:
            to = names[partner % len(names)]
            if names[offerer % len(names)] == name != to:
                await hold(None)
                await net.peers[name].offering.offer_to(to, to)

    await asyncio.gather(*(peer(name) for name in names))


def played(count: int, seed: int) -> Net:
    """A net after some offers without loss, with messages and (in most games) arithmetic that take their time."""
    rng = random.Random(seed)
    slowest, offloaded = rng.randint(1, 12), rng.random() < 0.7
    offers = [(rng.randrange(4), rng.randrange(4)) for _ in range(rng.randint(1, 14))]
    hold = slow(lambda: rng.randrange(slowest))
    net = Net(count, offload=hold)
    with patch.object(local_peer, "OFFLOAD_FROM_VALUES", 1 if offloaded else SIZE + 1):
        asyncio.run(play(net, offers, hold))
    return net


@settings(max_examples=300)
@given(st.integers(2, 4), st.integers(0, 2**32))
def test_without_loss_every_exchange_is_applied_by_both_or_by_none_in_any_order_of_messages(
    count: int, seed: int
) -> None:
    before = Net(count).total
    net = played(count, seed)
    np.testing.assert_allclose(net.total, before, atol=1e-4)
    kinds = {kind for peer in net.peers.values() for kind in peer.offering.outcomes}
    assert kinds <= {OutcomeKind.APPLIED, OutcomeKind.WITHDRAWN}
    applied = sum(peer.offering.outcomes[OutcomeKind.APPLIED] for peer in net.peers.values())
    assert applied == sum(peer.answering.answers[Refusal.NONE] for peer in net.peers.values())
    assert 2 * applied == sum(weights.applied for weights in net.weights.values())


@settings(max_examples=300)
@given(st.integers(0, 2**32))
def test_of_overlapping_exchanges_of_two_peers_one_is_applied_so_they_never_swap_nor_overshoot(
    seed: int,
) -> None:
    net = played(2, seed)
    outcomes = sum(
        (peer.offering.outcomes for peer in net.peers.values()),
        start=type(net.peers["p0"].offering.outcomes)(),
    )
    if outcomes:
        assert outcomes[OutcomeKind.APPLIED] >= 1
        assert net.spread() < 1e-12


@settings(max_examples=50)
@given(st.integers(2, 4), st.integers(0, 10**6), st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_network_that_loses_repeats_and_reorders_never_makes_a_side_apply_twice(
    count: int, seed: int, loss: float, repetition: float
) -> None:
    async def run() -> Net:
        net, rng = Net(count), random.Random(seed)
        clock = FakeClock(automatic=True)
        net.network.weather = NetworkConditions(clock, rng, (0.0, 1.0), loss, repetition)

        async def peer(name: str) -> None:
            for _ in range(5):
                partner = rng.choice([other for other in net.peers if other != name])
                await net.peers[name].offering.offer_to(partner, partner)
                await clock.sleep(rng.random())

        await asyncio.gather(*(peer(name) for name in net.peers))
        await asyncio.gather(*net.network.under_way, return_exceptions=True)
        return net

    net = asyncio.run(run())
    for name, peer in net.peers.items():
        changes = peer.offering.outcomes[OutcomeKind.APPLIED] + peer.answering.answers[Refusal.NONE]
        assert net.weights[name].applied == changes
        assert sum(peer.offering.outcomes.values()) == 5
    answered = sum(peer.answering.answers[Refusal.NONE] for peer in net.peers.values())
    applied = sum(peer.offering.outcomes[OutcomeKind.APPLIED] for peer in net.peers.values())
    unknown = sum(peer.offering.unanswered for peer in net.peers.values())
    withdrawn = sum(peer.offering.outcomes[OutcomeKind.WITHDRAWN] for peer in net.peers.values())
    assert applied <= answered <= applied + unknown + withdrawn


async def test_of_two_crossing_offers_the_lower_id_stands_and_nobody_swaps() -> None:
    net = Net(2)
    middle = net.total / 2
    started = asyncio.Barrier(2)

    async def meet(offer: Message) -> Message:
        await started.wait()
        return offer

    net.network.before_offer = meet
    outcomes = await asyncio.gather(
        net.peers["p0"].offering.offer_to("p1", "p1"), net.peers["p1"].offering.offer_to("p0", "p0")
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
                net.peers[name].offering.offer_to(partner, partner)
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
    outcome = await net.peers["p0"].offering.offer_to("p1", "p1")
    assert outcome.kind is OutcomeKind.FAILED
    assert net.weights["p0"].values is before
    assert net.weights["p1"].applied == 1


async def test_a_peer_with_nan_of_its_own_neither_offers_nor_answers() -> None:
    net = Net(2)
    net.weights["p0"].values[3] = np.nan
    assert (await net.peers["p0"].offering.offer_to("p1", "p1")).refusal is Refusal.NON_FINITE
    assert (await net.peers["p1"].offering.offer_to("p0", "p0")).refusal is Refusal.NON_FINITE
    assert net.weights["p0"].applied == net.weights["p1"].applied == 0


async def test_a_stranger_gets_a_reason() -> None:
    net = Net(1)
    stranger = net.peer("stranger", Weights(9), "float32", fingerprint="of another net")
    outcome = await stranger.offering.offer_to("p0", "p0")
    assert outcome.refusal is Refusal.LAYOUT_MISMATCH
    assert "layout" in outcome.reason


async def test_a_peer_that_has_not_loaded_the_consensus_refuses_and_is_left_as_it_is() -> None:
    net = Net(2)
    net.peers["p1"].local.accepting = Refusal.NOT_TRAINING
    outcome = await net.peers["p0"].offering.offer_to("p1", "p1")
    assert (outcome.kind, outcome.refusal) == (OutcomeKind.REFUSED, Refusal.NOT_TRAINING)
    assert net.weights["p1"].applied == 0


async def test_a_new_peer_does_not_accept_before_it_is_told_to() -> None:
    peer = ExchangingPeer("p", Weights(1), MemoryNetwork(), accepts=False)
    assert peer.local.accepting is Refusal.NOT_TRAINING


async def test_offers_of_others_are_answered_while_an_own_offer_is_in_flight() -> None:
    net = Net(3)
    held = asyncio.Event()

    async def hold_p0s(offer: Message) -> Message:
        if offer.peer == "p0":
            await held.wait()
        return offer

    net.network.before_offer = hold_p0s
    own = asyncio.create_task(net.peers["p0"].offering.offer_to("p1", "p1"))
    await asyncio.sleep(0)
    assert (await net.peers["p2"].offering.offer_to("p0", "p0")).kind is OutcomeKind.APPLIED
    held.set()
    assert (await own).kind is OutcomeKind.APPLIED


@pytest.mark.parametrize(
    ("error", "kind", "unanswered"),
    [
        (ExchangeFailed("no answer"), OutcomeKind.FAILED, 1),
        (FramesCorrupt("a bad checksum"), OutcomeKind.REJECTED, 1),
        (Undelivered("connection refused"), OutcomeKind.FAILED, 0),
    ],
)
async def test_an_exchange_that_perhaps_only_the_partner_applied_is_counted_never_silent(
    error: ExchangeFailed, kind: OutcomeKind, unanswered: int
) -> None:
    net = Net(2)
    offerer = net.peers["p0"]
    await offerer.offering.offer_to("p1", "p1")
    net.network.before_answer = spoilt_answer(error)
    assert (await offerer.offering.offer_to("p1", "p1")).kind is kind
    assert offerer.offering.unanswered == unanswered


async def test_an_exchange_that_is_cancelled_changes_nothing_and_leaves_room_for_the_next() -> None:
    net = Net(2)
    reached = asyncio.Event()

    async def hang(message: Message) -> Message:
        reached.set()
        await asyncio.Event().wait()
        return message

    net.network.before_answer = hang
    own = asyncio.create_task(net.peers["p0"].offering.offer_to("p1", "p1"))
    await reached.wait()
    own.cancel()
    with pytest.raises(asyncio.CancelledError):
        await own
    assert net.weights["p0"].applied == 0
    assert net.peers["p0"].offering.unanswered == 1
    net.network.before_answer = None
    assert (await net.peers["p0"].offering.offer_to("p1", "p1")).kind is OutcomeKind.APPLIED


async def test_a_second_own_offer_at_the_same_time_is_an_error_that_changes_nothing() -> None:
    net = Net(3)
    held = asyncio.Event()

    async def hold(message: Message) -> Message:
        await held.wait()
        return message

    net.network.before_offer = hold
    own = asyncio.create_task(net.peers["p0"].offering.offer_to("p1", "p1"))
    await asyncio.sleep(0)
    with pytest.raises(ExchangeFailed, match="still in flight"):
        await net.peers["p0"].offering.offer_to("p2", "p2")
    held.set()
    assert (await own).kind is OutcomeKind.APPLIED


async def test_a_late_answer_is_ignored_and_the_next_deadline_is_longer() -> None:
    net = Net(2)
    clock = SystemClock()
    net.network.weather = NetworkConditions(clock, random.Random(1))
    released, done = asyncio.Event(), asyncio.Event()

    async def late(message: Message) -> Message:
        await released.wait()
        done.set()
        return message

    net.network.before_answer = late
    first = net.peers["p0"].offering.deadline_s("p1")
    with patch.object(Offering, "deadline_s", lambda _, partner: 1.0):
        outcome = await net.peers["p0"].offering.offer_to("p1", "p1")
    assert outcome.kind is OutcomeKind.FAILED
    released.set()
    await asyncio.wait_for(done.wait(), 10)
    await asyncio.gather(*net.network.under_way)
    assert (net.weights["p0"].applied, net.weights["p1"].applied) == (0, 1)
    assert net.peers["p0"].offering.deadline_s("p1") == 2 * first
    assert net.peers["p0"].offering.deadline_s("p2") == first  # of another partner that says nothing


async def test_an_answer_to_another_offer_is_not_applied() -> None:
    net = Net(2)

    async def mistaken(answer: Message) -> Message:
        return replace(answer, exchange_id="of another offer")

    net.network.before_answer = mistaken
    assert (await net.peers["p0"].offering.offer_to("p1", "p1")).kind is OutcomeKind.REJECTED
    assert net.weights["p0"].applied == 0


@pytest.mark.parametrize("codec", CODECS)
@given(seed=st.integers(0, 2**32), magnitude=st.floats(-20, 8), cut=st.integers(0, SIZE))
def test_every_codec_keeps_the_sum_through_a_whole_exchange(
    codec: str, seed: int, magnitude: float, cut: int
) -> None:
    net = Net(2, codec, blobs=(cut, SIZE - cut))
    rng = np.random.default_rng(seed)
    for weights in net.weights.values():
        weights.values = (rng.standard_normal(SIZE) * 10**magnitude).astype(np.float32)
    before, largest = net.total, max(np.abs(weights.values).max() for weights in net.weights.values())
    assert asyncio.run(net.peers["p0"].offering.offer_to("p1", "p1")).kind is OutcomeKind.APPLIED
    assert np.abs(net.total - before).max() <= 2**-22 * largest
    assert {weights.applied for weights in net.weights.values()} == {1}


async def test_an_answer_uses_the_codec_of_its_offer_whatever_the_own_one_is() -> None:
    net = Net(2, "int8")
    net.put("p1", net.peer("p1", net.weights["p1"], "float32"))
    codecs: list[str] = []

    async def note(message: Message) -> Message:
        codecs.append(message.codec)
        return message

    net.network.before_offer = net.network.before_answer = note
    for name, partner in (("p0", "p1"), ("p1", "p0")):
        assert (await net.peers[name].offering.offer_to(partner, partner)).kind is OutcomeKind.APPLIED
    assert codecs == ["int8", "int8", "float32", "float32"]


async def test_two_sides_that_send_different_blobs_as_float32_keep_the_sum() -> None:
    net = Net(2, "float16")
    net.weights["p0"].values[5] = 1e6  # beyond float16: p0 sends that blob as float32, p1 as float16
    before = net.total
    assert (await net.peers["p0"].offering.offer_to("p1", "p1")).kind is OutcomeKind.APPLIED
    np.testing.assert_allclose(net.total, before, rtol=1e-7, atol=1e-6)
    assert net.weights["p1"].values[5] == pytest.approx(5e5)


async def test_the_running_distance_falls_as_peers_agree() -> None:
    net = Net(2)
    assert net.peers["p0"].local.mean_distance is None
    distances: list[float] = []
    for _ in range(5):
        await net.peers["p0"].offering.offer_to("p1", "p1")
        distances.append(net.peers["p0"].local.mean_distance or 0.0)
    assert distances == sorted(distances, reverse=True)
    assert net.peers["p1"].local.mean_distance is not None


class Witness:
    """Keeps what a peer's peer tells."""

    def __init__(self, weights: Weights) -> None:
        self.halves: dict[str, AppliedHalf] = {}
        self.added: dict[str, np.ndarray] = {}
        self._weights = weights
        self.one_sided: list[AppliedHalf] = []
        self.refusals: list[Refusal] = []

    def applied(self, half: AppliedHalf) -> None:
        assert half.exchange_id not in self.halves
        self.halves[half.exchange_id] = half
        self.added[half.exchange_id] = self._weights.last.astype(np.float64)

    def alone(self, half: AppliedHalf) -> None:
        self.one_sided.append(half)

    def too_far(self, offer: Message, reach: Reach) -> None: ...

    def refused(self, offer: Message, refusal: Refusal, reason: str) -> None:
        assert reason
        self.refusals.append(refusal)


async def stormy(net: Net, seed: int, loss: float, repetition: float) -> dict[str, OutcomeKind]:
    """Five offers of each peer, all at once, through bad weather, some of them cancelled; then all is delivered."""
    rng, clock = random.Random(seed), FakeClock(automatic=True)
    slowest = rng.choice([0.1, 1.0, 8.0])
    ended: dict[str, OutcomeKind] = {}
    with patch.object(SystemClock, "monotonic", clock.monotonic):
        net.network.weather = NetworkConditions(clock, rng, (0.0, slowest), loss, repetition)

        async def peer(name: str) -> None:
            peer = net.peers[name]
            for _ in range(5):
                partner = rng.choice([other for other in net.peers if other != name])
                exchange_id = peer.offering.new_id()
                own = asyncio.ensure_future(peer.offering.offer_to(partner, partner, exchange_id))
                if rng.random() < 0.1:
                    await clock.sleep(rng.uniform(0, slowest))
                    own.cancel()
                try:
                    ended[exchange_id] = (await own).kind
                except asyncio.CancelledError:
                    ended[exchange_id] = OutcomeKind.FAILED
                await clock.sleep(rng.random())

        await asyncio.gather(*(peer(name) for name in net.peers))
        await asyncio.gather(*net.network.under_way, return_exceptions=True)
        net.network.weather = None
    return ended


@settings(max_examples=150)
@given(
    st.integers(2, 5),
    st.integers(0, 10**6),
    st.floats(0, 0.6),
    st.floats(0, 0.5),
    st.sampled_from(["float32", "float16", "int8", "int4"]),
)
def test_whatever_happens_the_sum_moves_only_by_halves_that_one_side_applied_and_their_mass_is_known(
    count: int, seed: int, loss: float, repetition: float, codec: str
) -> None:
    net = Net(count, codec)
    witnesses = {name: Witness(weights) for name, weights in net.weights.items()}
    for name, peer in net.peers.items():
        peer.answering.watcher = witnesses[name]
    before = net.total

    async def run() -> tuple[dict[str, OutcomeKind], np.ndarray]:
        ended = await stormy(net, seed, loss, repetition)
        after = net.total
        # Everybody tells everybody once, in good weather, what it has given up.
        for name, peer in net.peers.items():
            for partner in net.peers:
                if partner != name:
                    await peer.offering.offer_to(partner, partner)
        return ended, after

    ended, after = asyncio.run(run())
    alone = [
        half
        for witness in witnesses.values()
        for half in witness.halves.values()
        if ended.get(half.exchange_id, OutcomeKind.APPLIED) is not OutcomeKind.APPLIED
    ]
    moved = sum(half.total for half in alone)
    added = {name: vector for witness in witnesses.values() for name, vector in witness.added.items()}
    by_those = sum((added[half.exchange_id] for half in alone), start=np.zeros(SIZE))
    np.testing.assert_allclose(after, before + by_those, atol=1e-5)
    assert moved == pytest.approx(by_those.sum(), abs=1e-9)
    # And each peer knows its part of it.
    known = [half for witness in witnesses.values() for half in witness.one_sided]
    assert sorted(half.exchange_id for half in known) == sorted(half.exchange_id for half in alone)
    assert sum(peer.answering.one_sided.count for peer in net.peers.values()) == len(alone)
    assert sum(peer.answering.one_sided.mass_error for peer in net.peers.values()) == pytest.approx(
        moved, abs=1e-9
    )
    applied = {exchange_id for witness in witnesses.values() for exchange_id in witness.halves}
    assert {exchange_id for exchange_id, kind in ended.items() if kind is OutcomeKind.APPLIED} <= applied


@settings(max_examples=60)
@given(st.integers(2, 5), st.integers(0, 10**6), st.floats(0, 0.3))
def test_the_consensus_distance_shrinks_in_any_weather(count: int, seed: int, loss: float) -> None:
    def apart(net: Net) -> float:
        values = np.stack([weights.values.astype(float) for weights in net.weights.values()])
        return float(((values - values.mean(axis=0)) ** 2).sum())

    net = Net(count)
    before = apart(net)
    ended = asyncio.run(stormy(net, seed, loss, 0.2))
    if OutcomeKind.APPLIED in ended.values():
        assert apart(net) < before


async def test_a_half_that_the_offerer_gave_up_is_counted_once_when_it_says_so() -> None:
    net = Net(2)
    answerer, before = net.peers["p1"], net.weights["p1"].values
    net.network.before_answer = spoilt_answer(ExchangeFailed("the answer was lost"))
    for _ in range(2):
        assert (await net.peers["p0"].offering.offer_to("p1", "p1")).kind is OutcomeKind.FAILED
    moved = net.weights["p1"].values.astype(float) - before
    assert answerer.answering.one_sided.count == 1  # the second offer named the first
    net.network.before_answer = None
    for _ in range(3):
        assert (await net.peers["p0"].offering.offer_to("p1", "p1")).kind is OutcomeKind.APPLIED
        assert answerer.answering.one_sided.count == 2
    assert answerer.answering.one_sided.mass_error == pytest.approx(moved.sum(), abs=1e-5)


async def test_an_offer_that_comes_after_its_sender_gave_it_up_is_refused() -> None:
    net = Net(2)
    late = await offered_by_p0(net)
    net.network.before_offer = spoilt_answer(ExchangeFailed("perhaps it came"))
    assert (await net.peers["p0"].offering.offer_to("p1", "p1", "lost")).kind is OutcomeKind.FAILED
    net.network.before_offer = None
    assert (await net.peers["p0"].offering.offer_to("p1", "p1")).kind is OutcomeKind.APPLIED
    assert (
        await net.peers["p1"].answering.answer(replace(late, exchange_id="lost"))
    ).refusal is Refusal.CROSSING
    assert net.weights["p1"].applied == 1


async def test_nobody_is_told_what_others_gave_up() -> None:
    net = Net(3)
    net.network.before_answer = spoilt_answer(ExchangeFailed("the answer was lost"))
    await net.peers["p0"].offering.offer_to("p1", "p1", "lost")
    stranger = replace(await offered_by_p0(net), exchange_id="x", peer="p2", withdraws="lost")
    await net.peers["p1"].answering.answer(stranger)
    assert net.peers["p1"].answering.one_sided.count == 0


async def test_an_offer_that_comes_twice_at_the_same_time_is_applied_once() -> None:
    net = Net(2)
    offer = await offered_by_p0(net)
    computing, go_on = asyncio.Event(), asyncio.Event()

    async def held(work: Callable[..., Any], *arguments: Any) -> Any:
        computing.set()
        await go_on.wait()
        return work(*arguments)

    answerer = net.peers["p1"] = net.peer("p1", net.weights["p1"], "float32", offload=held)
    if not offer.payload:
        offer = replace(offer, payload=net.weights["p0"].values.tobytes())
    with patch.object(local_peer, "OFFLOAD_FROM_VALUES", 1):
        answers = [asyncio.ensure_future(answerer.answering.answer(offer)) for _ in range(2)]
        await computing.wait()
        go_on.set()
        first, second = await asyncio.gather(*answers)
    assert first is second
    assert net.weights["p1"].applied == answerer.answering.answers[Refusal.NONE] == 1


async def test_an_answer_to_an_offer_that_was_withdrawn_is_not_applied_although_the_partner_took_it_late() -> (
    None
):
    net = Net(2)
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def hold_p1s(offer: Message) -> Message:
        if offer.peer == "p1":
            reached.set()
            await go_on.wait()
        return offer

    async def lose_p1s(answer: Message) -> Message:
        if answer.peer == "p1":
            raise ExchangeFailed("the answer was lost")
        return answer

    net.network.before_offer, net.network.before_answer = hold_p1s, lose_p1s
    own = asyncio.ensure_future(net.peers["p1"].offering.offer_to("p0", "p0"))
    await reached.wait()
    assert (
        await net.peers["p0"].offering.offer_to("p1", "p1")
    ).kind is OutcomeKind.FAILED  # p1 has applied its half
    go_on.set()
    assert (await own).kind is OutcomeKind.WITHDRAWN  # p0 would take it: it knows of no crossing any more
    assert net.weights["p1"].applied == 1
    assert net.weights["p0"].applied == net.peers["p0"].answering.answers[Refusal.NONE]


async def test_a_torn_copy_of_an_offer_that_was_applied_does_not_make_it_look_refused() -> None:
    net = Net(2)
    offer = await offered_by_p0(net)
    answerer = net.peers["p1"]

    async def torn() -> Message:
        assert (await answerer.answering.answer(offer)).refusal is Refusal.NONE  # the other copy was faster
        raise FramesCorrupt("the connection ended")

    if not offer.payload:
        offer = replace(offer, payload=net.weights["p0"].values.tobytes())
    await answerer.answering.receive(offer, len(offer.payload), torn)
    for number in range(2 * KEPT_ANSWERS):
        await answerer.answering.answer(replace(offer, exchange_id=f"later {number}"))
    assert (await answerer.answering.answer(offer)).refusal is Refusal.REPEATED
