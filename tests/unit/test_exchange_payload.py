"""Offers and answers that carry their weights: kept, repeated, refused unread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from gossip_caffe.gossip.codecs.codec import largest_payload_bytes
from gossip_caffe.gossip.codecs.message import FramesCorrupt, Message, Refusal
from gossip_caffe.gossip.protocol import local_peer
from gossip_caffe.gossip.protocol.answer_cache import KEPT_ANSWERS
from gossip_caffe.gossip.protocol.answering import MOST_IN_FLIGHT
from gossip_caffe.gossip.protocol.outcome import OutcomeKind
from tests.exchange_net import SIZE, Net, Weights, offered_by_p0, slow


async def test_frozen_weights_are_not_sent_in_an_exchange_but_are_in_what_is_shown() -> None:
    net = Net(0)
    for name, seed in (("p0", 0), ("p1", 1)):
        net.weights[name] = Weights(seed, frozen=13)
        net.put(name, net.peer(name, net.weights[name], "float32"))
    before = {name: weights.values for name, weights in net.weights.items()}
    middle = net.total / 2
    offers: list[Message] = []

    async def note(offer: Message) -> Message:
        offers.append(offer)
        return offer

    net.network.before_offer = note
    assert (await net.peers["p0"].offering.offer_to("p1", "p1")).kind is OutcomeKind.APPLIED
    assert [(offer.values, len(offer.payload)) for offer in offers] == [(SIZE - 13, 4 * (SIZE - 13))]
    for name, weights in net.weights.items():
        np.testing.assert_allclose(weights.values[:-13], middle[:-13], atol=1e-6)
        assert np.array_equal(weights.values[-13:], before[name][-13:])
    shown = await net.peers["p1"].answering.show(Message("x", "p0", "job", "layout", values=SIZE))
    assert np.array_equal(np.frombuffer(shown.payload, "<f4"), net.weights["p1"].values)
    assert shown.values == SIZE


async def test_a_repeated_offer_gets_the_same_answer_and_is_applied_once() -> None:
    net = Net(2)
    seen: list[Message] = []

    async def twice(offer: Message) -> Message:
        seen.append(await net.peers["p1"].answering.answer(offer))
        return offer

    net.network.before_offer = twice
    outcome = await net.peers["p0"].offering.offer_to("p1", "p1")
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
    outcome = await net.peers["p0"].offering.offer_to("p1", "p1")
    assert outcome.refusal is refusal
    assert outcome.kind is (OutcomeKind.REFUSED if side == "offer" else OutcomeKind.REJECTED)
    assert net.weights["p0"].values is before
    assert net.weights["p1"].applied == (0 if side == "offer" else 1)


async def test_an_offer_that_comes_again_long_after_its_answer_was_forgotten_is_not_applied_again() -> None:
    net = Net(2)
    offer = await offered_by_p0(net)
    first = await net.peers["p1"].answering.answer(offer)
    for _ in range(KEPT_ANSWERS):
        assert await net.peers["p1"].answering.answer(offer) is first
        await net.peers["p0"].offering.offer_to("p1", "p1")
    applied = net.weights["p1"].applied
    assert (await net.peers["p1"].answering.answer(offer)).refusal is Refusal.REPEATED
    assert net.weights["p1"].applied == applied


async def test_an_offer_that_comes_twice_at_once_is_applied_once_although_arithmetic_takes_a_while() -> None:
    net = Net(2, offload=slow(lambda: 3))
    with patch.object(local_peer, "OFFLOAD_FROM_VALUES", 1):
        offer = await offered_by_p0(net)
        one, two = await asyncio.gather(
            net.peers["p1"].answering.answer(offer), net.peers["p1"].answering.answer(offer)
        )
    assert one is two
    assert net.weights["p1"].applied == 1


async def test_a_peer_that_begins_to_leave_while_it_computes_an_answer_refuses() -> None:
    net = Net(2)
    offer = await offered_by_p0(net)

    async def leaving(work: Callable[..., Any], *arguments: Any) -> Any:
        net.peers["p1"].local.accepting = Refusal.SHUTTING_DOWN
        return work(*arguments)

    net.offload = leaving
    net.peers["p1"] = net.peer("p1", net.weights["p1"], "float32")
    with patch.object(local_peer, "OFFLOAD_FROM_VALUES", 1):
        assert (await net.peers["p1"].answering.answer(offer)).refusal is Refusal.SHUTTING_DOWN
    assert net.weights["p1"].applied == 0


async def test_more_offers_at_once_than_the_cap_are_refused_unread_and_taken_again_afterwards() -> None:
    net = Net(2)
    offer = await offered_by_p0(net)
    arrive = asyncio.Event()

    async def receive(number: int) -> Message:
        numbered = replace(offer, exchange_id=f"offer {number}", peer=f"stranger {number}")

        async def read() -> Message:
            await arrive.wait()
            return numbered

        return await net.peers["p1"].answering.receive(numbered, len(offer.payload), read)

    reading = [asyncio.create_task(receive(number)) for number in range(MOST_IN_FLIGHT)]
    await asyncio.sleep(0)
    assert (await receive(99)).refusal is Refusal.OVERLOADED
    arrive.set()
    assert all(answer.refusal is Refusal.NONE for answer in await asyncio.gather(*reading))
    assert (await receive(100)).refusal is Refusal.NONE


@pytest.mark.parametrize(
    ("spoil", "payload_bytes", "refusal"),
    [
        (lambda m: replace(m, job="another"), 4 * SIZE, Refusal.LAYOUT_MISMATCH),
        (lambda m: replace(m, values=SIZE + 1), 4 * SIZE, Refusal.LAYOUT_MISMATCH),
        (lambda m: replace(m, codec="morse"), 4 * SIZE, Refusal.UNKNOWN_CODEC),
        (lambda m: m, largest_payload_bytes(SIZE) + 1, Refusal.CORRUPT_FRAME),
        (lambda m: replace(m, peer="p1"), 4 * SIZE, Refusal.NOT_TRAINING),
    ],
)
async def test_an_offer_that_its_header_condemns_is_refused_unread(
    spoil: Callable[[Message], Message], payload_bytes: int, refusal: Refusal
) -> None:
    net = Net(2)
    header = spoil(replace(await offered_by_p0(net), payload=b""))

    async def read() -> Message:
        raise AssertionError("read all the same")

    answer = await net.peers["p1"].answering.receive(header, payload_bytes, read)
    assert answer.refusal is refusal
    assert answer.exchange_id == header.exchange_id
    assert answer.reason


async def test_an_offer_that_breaks_off_is_refused_and_holds_no_place() -> None:
    net = Net(2)
    offer = await offered_by_p0(net)

    async def read() -> Message:
        raise FramesCorrupt("only half of it came")

    for number in range(2 * MOST_IN_FLIGHT):
        header = replace(offer, exchange_id=str(number))
        answer = await net.peers["p1"].answering.receive(header, len(offer.payload), read)
        assert (answer.refusal, answer.reason) == (Refusal.CORRUPT_FRAME, "only half of it came")
    assert net.weights["p1"].applied == 0
