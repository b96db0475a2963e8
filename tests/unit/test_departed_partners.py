"""Partners that depart: nobody asks them any more, nothing is kept of them, and a choice takes no longer for them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.codecs.message import Message
from gossip_caffe.gossip.policy.deadline import Deadlines
from gossip_caffe.gossip.policy.partners import PARTNER_POLICIES, AvoidedPartners, Standpoint
from gossip_caffe.gossip.policy.remembering import MOST_PARTNERS
from gossip_caffe.gossip.protocol.crossing_offers import Crossing
from gossip_caffe.gossip.protocol.one_sided import NAMED, GivenUp
from gossip_caffe.gossip.transport.memory_transport import MemoryNetwork
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Delete, Put
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import MembersView, PeerRecord
from gossip_caffe.observe.log.events import MemoryLog
from gossip_caffe.peer.sharing.pairwise import PairwiseStrategy
from gossip_caffe.peer.sharing.partners_view import LivePartners
from tests.exchange_net import ExchangingPeer, Weights
from tests.fake_clock import FakeClock

DEPARTED = 400
HOUR_S = 3600


class Counted(dict[str, Any]):
    """A dictionary that counts how often it is looked at, each entry of a walk through it included."""

    looks = 0

    def __contains__(self, key: object) -> bool:
        self.looks += 1
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.looks += 1
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:
        for key in super().__iter__():
            self.looks += 1
            yield key


@pytest.mark.parametrize("strategy", sorted(PARTNER_POLICIES))
@pytest.mark.parametrize("zones", [{"": ""}, {"here": "here", "there": "there"}], ids=["no zone", "zones"])
def test_a_choice_takes_as_many_steps_after_many_have_departed(strategy: str, zones: dict[str, str]) -> None:
    candidates = {f"q{number}{zone}": zone for number in range(4) for zone in zones}
    looks = []
    for departed in (0, 20_000):
        suspects = AvoidedPartners()
        for number in range(departed):
            suspects.failed(f"p{number}", 1e6)
        for peer in candidates:
            suspects.failed(peer, 1e6)
        suspects.until, suspects.failures = Counted(suspects.until), Counted(suspects.failures)
        own = Standpoint("me", next(iter(zones)))
        choice = PARTNER_POLICIES[strategy](own, candidates, suspects, 1e6, random.Random(1))
        assert choice.partner is None
        looks.append(suspects.until.looks + suspects.failures.looks)
    assert looks[0] == looks[1]


def test_the_memory_of_partners_is_bounded_without_news_of_their_departure() -> None:
    suspects, given_up, deadlines, crossing = AvoidedPartners(), GivenUp(), Deadlines(0), Crossing("me")
    for number in range(5 * MOST_PARTNERS):
        peer = f"p{number}"
        suspects.failed(peer, float(number))
        given_up.add(peer, f"x{number}")
        given_up.add("stays", f"y{number}")
        deadlines.of(peer)
        crossing.accept(Message(f"z{number}", peer, "j", "f"))
    kept = (suspects.until, suspects.failures, given_up._of, deadlines._of, crossing._answered)
    assert all(len(memory) <= MOST_PARTNERS for memory in kept)
    assert given_up.named_to("stays") == tuple(f"y{5 * MOST_PARTNERS - NAMED + n}" for n in range(NAMED))
    for memory in (suspects, given_up, deadlines, crossing):
        memory.forget({"stays"})
    assert [len(memory) for memory in kept] == [0, 0, 1, 0, 0]


def test_a_partner_that_fails_for_a_year_is_still_asked_now_and_then() -> None:
    suspects = AvoidedPartners()
    for _ in range(5000):  # 2.0 ** 5000 is no number
        suspects.failed("p", 0.0)
    assert not suspects.avoided("p", 1000.0)


class Addresses(MemoryNetwork):
    """Writes down where offers go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def exchange(self, address: str, offer: Message, deadline_s: float) -> Message:
        self.asked.append(address)
        if address.startswith("dead"):
            raise ExchangeFailed("nobody answers")
        return await super().exchange(address, offer, deadline_s)


def kept_of_others(exchanging: PairwiseStrategy) -> dict[str, int]:
    """How many partners something is kept of, everywhere."""
    local, offering = exchanging._peer, exchanging._offering
    kept: dict[str, Any] = {
        "until": exchanging._suspects.until,
        "failures": exchanging._suspects.failures,
        "given up": offering._given_up._of,
        "deadlines": offering._deadlines._of,
        "answered": local.crossing._answered,
    }
    return {name: len(memory) for name, memory in kept.items()}


async def test_an_hour_after_400_partners_departed_none_was_asked_and_none_is_remembered() -> None:
    clock, keys = FakeClock(), JobKeys("job")
    etcd = MemoryEtcd(clock)
    store = MemoryStore(etcd)
    view = MembersView(store, keys)
    following = asyncio.ensure_future(view.follow())
    record = PeerRecord("p", "1", "p:1", "h", 1, "training", fingerprint="layout")

    async def registered(peer: str, address: str) -> None:
        value = replace(record, peer=peer, address=address).to_json()
        await store.transact([], [Put(keys.peer(peer), value)])

    network = Addresses()
    company = LivePartners(view, "me", "layout")
    mine = ExchangingPeer("me", Weights(1), network, clock=clock)
    for peer in ("alive-a", "alive-b"):
        network.peers[f"{peer}:1"] = ExchangingPeer(peer, Weights(1), network, clock=clock).answering
        await registered(peer, f"{peer}:1")
    for number in range(DEPARTED):
        await registered(f"p{number}", f"dead-{number}:1")
    await clock.advance(1)
    assert len(company.addresses) == DEPARTED + 2
    exchanging = PairwiseStrategy(
        peer=mine.local,
        offering=mine.offering,
        answering=mine.answering,
        board=SimpleNamespace(iteration=0),  # type: ignore[arg-type]
        settings=JobSettings(),
        own=lambda: ("me", ""),
        partners=lambda: company.addresses,
        zones=lambda: company.zones,
        members=lambda: view.members,
        shared=lambda _: None,
        urgent=lambda: False,
        clock=clock,
        rng=random.Random(1),
        log=MemoryLog(),
    )
    for turn in range(3 * DEPARTED):  # they are asked while their records stand, and offer themselves
        await exchanging.exchange()
        await mine.answering.answer(
            replace(_offer(mine), peer=f"p{turn % DEPARTED}", exchange_id=f"theirs-{turn}")
        )
    assert kept_of_others(exchanging)["given up"] > DEPARTED / 2
    for number in range(DEPARTED):
        await store.transact([], [Delete(keys.peer(f"p{number}"))])
    await clock.advance(1)
    network.asked.clear()
    for second in range(HOUR_S):
        await exchanging.exchange()
        await clock.advance(1)
        if not second:
            at_first = kept_of_others(exchanging)
    assert set(network.asked) == {"alive-a:1", "alive-b:1"}
    assert len(network.asked) == HOUR_S
    assert all(count <= 2 for count in at_first.values()), at_first
    assert all(count <= 2 for count in kept_of_others(exchanging).values())
    following.cancel()


def _offer(of: ExchangingPeer) -> Message:
    return Message("x", "p", "job", "layout", codec="float32", values=of.local.weights.exchanged)
