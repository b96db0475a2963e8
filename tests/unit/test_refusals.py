"""What a peer that refuses says of itself: enough to mend a mistake, and nothing of others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import fields, replace

import numpy as np
import pytest

from gossip_caffe.gossip.averaging.bound import WARM_AFTER, Bound
from gossip_caffe.gossip.codecs.message import FramesCorrupt, Message, Refusal
from gossip_caffe.gossip.protocol.admission import BRIEF_S, Caller
from gossip_caffe.gossip.protocol.places import TransferPlace
from tests.exchange_net import SIZE, Net, offered_by_p0

SAID = {"exchange_id", "peer", "job", "fingerprint", "refusal", "reason"}
STRANGER = "stranger"
Refused = Callable[[Net, Message], Awaitable[Message]]


def bounded_net() -> Net:
    """Two peers, of which p1 has left its warm-up."""
    net = Net(2)
    bound = net.peers["p1"].local.bound = Bound(0.25, SIZE, lambda: True)
    for _ in range(WARM_AFTER):
        bound.note_applied()
    return net


async def answered(net: Net, offer: Message) -> Message:
    return await net.peers["p1"].answering.answer(offer)


async def received(net: Net, offer: Message) -> Message:
    async def read() -> Message:
        return offer

    return await net.peers["p1"].answering.receive(offer, len(offer.payload), read)


async def of_another_job(net: Net, offer: Message) -> Message:
    return await received(net, replace(offer, job="?", fingerprint="?", values=0, payload=b""))


async def of_another_net(net: Net, offer: Message) -> Message:
    return await received(net, replace(offer, fingerprint="?", values=0, payload=b""))


async def of_another_codec(net: Net, offer: Message) -> Message:
    return await received(net, replace(offer, codec="?"))


async def of_nan(net: Net, offer: Message) -> Message:
    return await answered(net, replace(offer, payload=np.full(SIZE, np.nan, "<f4").tobytes()))


async def of_too_much(net: Net, offer: Message) -> Message:
    return await answered(net, replace(offer, payload=np.full(SIZE, 1e30, "<f4").tobytes()))


async def of_too_little(net: Net, offer: Message) -> Message:
    return await answered(net, replace(offer, payload=offer.payload[:-1]))


async def that_breaks_off(net: Net, offer: Message) -> Message:
    async def read() -> Message:
        raise FramesCorrupt("half of it")

    return await net.peers["p1"].answering.receive(offer, len(offer.payload), read)


async def that_comes_too_early(net: Net, offer: Message) -> Message:
    net.peers["p1"].local.accepting = Refusal.NOT_TRAINING
    return await received(net, offer)


async def that_comes_too_late(net: Net, offer: Message) -> Message:
    net.peers["p1"].local.accepting = Refusal.SHUTTING_DOWN
    return await received(net, offer)


async def that_crosses_another(net: Net, offer: Message) -> Message:
    """p1 has an offer to this very name in flight."""
    net.peers["p1"].local.crossing.begin("own", "zzz")
    return await received(net, replace(offer, peer="zzz"))


async def that_comes_twice(net: Net, offer: Message) -> Message:
    net.peers["p1"].local.bound.start_over()
    await answered(net, offer)
    net.peers["p1"].answering._given._whole.clear()
    return await answered(net, offer)


def _place_of(member: str, net: Net) -> TransferPlace:
    """Whose transfer is over, and which is at work."""
    return TransferPlace(Caller(member), 1, net.peers["p1"].local.clock, 0.0)


async def that_finds_no_place(net: Net, offer: Message) -> Message:
    """Those who have the places are members whose names nobody is told."""
    places = net.peers["p1"].answering._receiving
    places._taken = [_place_of(f"member{number}", net) for number in range(4)]
    return await received(net, offer)


async def that_loses_its_place(net: Net, offer: Message) -> Message:
    """To a member, which came whole before."""
    places = net.peers["p1"].answering._receiving

    class Dawdling:
        moved_bytes, allowed_s, source = 0, 0.0, "ipv4:stranger"

        async def __call__(self) -> Message:
            await asyncio.Event().wait()
            return offer

    places._taken = [_place_of(f"member{number}", net) for number in range(3)]
    member = Caller("member9", "ipv4:member9")
    places._proven[member] = None
    receiving = asyncio.ensure_future(
        net.peers["p1"].answering.receive(offer, len(offer.payload), Dawdling())
    )
    while not places.admission(member).is_admitted:
        await asyncio.sleep(BRIEF_S / 4)
    async with places.taken(member, len(offer.payload)):
        return await receiving


async def of_a_snapshot_by_another_job(net: Net, offer: Message) -> Message:
    return await net.peers["p1"].answering.show(replace(offer, job="?", fingerprint="?", payload=b""))


async def of_a_snapshot_that_comes_too_early(net: Net, offer: Message) -> Message:
    net.peers["p1"].local.accepting = Refusal.NOT_TRAINING
    return await net.peers["p1"].answering.show(offer)


async def that_is_of_a_round(net: Net, offer: Message) -> Message:
    return await received(net, replace(offer, phase="scatter"))


CASES: dict[Refused, Refusal] = {
    of_another_job: Refusal.LAYOUT_MISMATCH,
    of_another_net: Refusal.LAYOUT_MISMATCH,
    of_another_codec: Refusal.UNKNOWN_CODEC,
    of_nan: Refusal.NON_FINITE,
    of_too_much: Refusal.TOO_FAR,
    of_too_little: Refusal.CORRUPT_FRAME,
    that_breaks_off: Refusal.CORRUPT_FRAME,
    that_comes_too_early: Refusal.NOT_TRAINING,
    that_comes_too_late: Refusal.SHUTTING_DOWN,
    that_crosses_another: Refusal.CROSSING,
    that_comes_twice: Refusal.REPEATED,
    that_is_of_a_round: Refusal.OTHER_ROUND,
    that_finds_no_place: Refusal.OVERLOADED,
    that_loses_its_place: Refusal.OVERLOADED,
    of_a_snapshot_by_another_job: Refusal.LAYOUT_MISMATCH,
    of_a_snapshot_that_comes_too_early: Refusal.NOT_TRAINING,
}


def test_every_refusal_is_looked_at() -> None:
    # UNAUTHORIZED is the transport's, which alone knows the certificate of a call (test_tls_exchange.py).
    assert set(CASES.values()) == set(Refusal) - {Refusal.NONE, Refusal.UNAUTHORIZED}


@pytest.mark.parametrize(("refused", "refusal"), CASES.items(), ids=[case.__name__ for case in CASES])
async def test_a_refusal_names_the_job_and_the_net_and_nothing_of_anybody_else(
    refused: Refused, refusal: Refusal
) -> None:
    """Both are known to whoever has the net's text and can ask etcd; weights, members and addresses are not said."""
    net = bounded_net()
    offer = replace(await offered_by_p0(net), peer=STRANGER, exchange_id="stranger-1")
    answer = await refused(net, offer)
    assert answer.refusal is refusal
    assert (answer.peer, answer.job, answer.fingerprint) == ("p1", "job", "layout")
    empty = Message("", "", "", "")
    for field in fields(answer):
        if field.name not in SAID and (field.name, refusal) not in {
            ("version", Refusal.REPEATED),
            ("codec", Refusal.REPEATED),
        }:
            assert getattr(answer, field.name) == getattr(empty, field.name), field.name
    assert answer.reason
    assert "p0" not in answer.reason
    assert "member" not in answer.reason
    assert "127.0.0.1" not in answer.reason
    assert "/" not in answer.reason


async def test_knowing_the_job_and_the_net_gives_no_right_to_move_a_model() -> None:
    """What a stranger needs for an offer it may have from a refusal; what it offers is bounded all the same."""
    net = bounded_net()
    offer = replace(await offered_by_p0(net), peer=STRANGER)
    told = await of_another_net(net, replace(offer, exchange_id="stranger-1"))
    before = net.weights["p1"].values.copy()
    for number, spoilt in enumerate((np.full(SIZE, 1e30), np.zeros(SIZE), -before, 100 * before)):
        payload = spoilt.astype("<f4").tobytes()
        header = replace(offer, exchange_id=f"stranger-{number + 2}", job=told.job)
        answer = await answered(net, replace(header, fingerprint=told.fingerprint, payload=payload))
        assert answer.refusal is Refusal.TOO_FAR
    np.testing.assert_array_equal(net.weights["p1"].values, before)
