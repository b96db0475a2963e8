"""What one peer owns, while its lease comes and goes: nothing is trained and forgotten."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.errors import LeaseLost, StoreUnavailable
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Guard, Operation, TxnResult
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.observe.log.events import Event, read_events
from gossip_caffe.observe.log.writing import JsonLinesLog
from gossip_caffe.peer.work.claim_states import ClaimEvent
from gossip_caffe.peer.work.claims import Claims
from gossip_caffe.shards.choice import Chooser
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.shards.ledger import CHUNKS_PER_TRANSACTION, Ledger, Settlement
from tests.fake_clock import FakeClock

EPOCHS = Epochs(records=2000, chunk_records=10, budget_samples=4000, seed=1)
KEYS = JobKeys("j")


class FailingStore(MemoryStore):
    """Refuses one transaction, ``fails_in`` counts down to it; keeps replies back until ``replies`` is set."""

    fails_in = -1

    def __init__(self, server: MemoryEtcd) -> None:
        super().__init__(server)
        self.replies = asyncio.Event()
        self.replies.set()

    async def transact(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> TxnResult:
        self.fails_in -= 1
        if self.fails_in == 0:
            raise StoreUnavailable("away", remedy="wait")
        result = await super().transact(guards, operations)
        await self.replies.wait()
        return result


class Peer:
    """The claims of one peer over a store that can be told to fail."""

    def __init__(self, log: Path) -> None:
        self.clock = FakeClock(automatic=True)
        self.server = MemoryEtcd(self.clock)
        self.store = FailingStore(self.server)
        self.log = log
        self.fed: list[ChunkId] = []
        self.withdrawn: set[ChunkId] = set()

    async def begin(self) -> Claims:
        ledger = await self.incarnation()
        claims = Claims(
            ledger=ledger,
            lease=self.session.id,
            epochs=EPOCHS,
            chooser=Chooser(EPOCHS, lambda: list(range(EPOCHS.chunks)), random.Random(1)),
            feed=lambda chunk, start, stop: self.fed.append(chunk),
            withdraw=self.withdrawn.update,
            clock=self.clock,
            log=JsonLinesLog(self.log.parent, "a", self.clock),
        )
        assert (
            await claims.claim(1)
        ).event is ClaimEvent.NONE_CLAIMED  # the first call only lists the ledger
        return claims

    async def incarnation(self) -> Ledger:
        self.session = LeaseSession(self.store, self.clock, 5.0)
        await self.session.start()
        writer = FencedWriter(self.store, self.session, KEYS.fence("a"), self.clock)
        await writer.open()
        return Ledger(self.store, writer, KEYS, EPOCHS, "a")

    def chunks_logged(self, event: Event) -> list[ChunkId]:
        lines: list[Any] = [line for line in read_events(self.log) if line["event"] == event]
        return [ChunkId(line["epoch"], chunk) for line in lines for chunk in line["chunks"]]


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    peer = Peer(tmp_path / "a.jsonl")
    yield peer
    await peer.session.close()


async def test_chunks_that_become_shared_and_owned_while_the_peer_registers_again_are_settled(
    peer: Peer,
) -> None:
    """The store was away, so everything is due at once: what is owned is claimed anew, settled and added to."""
    claims = await peer.begin()
    await claims.claim(150)
    claims.shared(peer.fed[:100], "x1")

    peer.server.revoke(peer.session.id)
    await peer.session.close()
    ledger = await peer.incarnation()
    renewing = asyncio.create_task(claims.renew_ownership(ledger, peer.session.id))
    await asyncio.sleep(0)
    await claims.settle()
    while len(peer.fed) == 150:
        await claims.claim(40)
    assert await renewing == 0

    claims.shared(peer.fed, "x2")
    await claims.settle()
    assert claims.owned == {}
    assert claims.done_chunks == len(peer.fed) > 150
    states = await ledger.states()
    assert not any(state.owned for state in states.values())


async def test_what_was_claimed_before_the_store_went_away_is_trained(peer: Peer) -> None:
    claims = await peer.begin()
    peer.store.fails_in = 2
    with pytest.raises(StoreUnavailable):
        await claims.claim(100)
    assert len(peer.fed) == len(claims.owned) == CHUNKS_PER_TRANSACTION


async def test_what_was_settled_before_the_store_went_away_is_done_and_the_rest_is_due(peer: Peer) -> None:
    claims = await peer.begin()
    await claims.claim(100)
    claims.shared(peer.fed, "x1")
    peer.store.fails_in = 2
    with pytest.raises(StoreUnavailable):
        await claims.settle()
    assert claims.done_chunks == CHUNKS_PER_TRANSACTION
    await claims.settle()
    assert claims.done_chunks == len(set(peer.chunks_logged(Event.DONE))) == 100


async def test_a_settlement_whose_reply_was_lost_with_the_lease_is_written_down_as_unknown_once(
    peer: Peer,
) -> None:
    claims = await peer.begin()
    await claims.claim(10)
    claims.shared(peer.fed, "x1")
    peer.server.revoke(peer.session.id)
    for _ in range(3):
        with pytest.raises(LeaseLost):
            await claims.settle()
    assert sorted(peer.chunks_logged(Event.UNKNOWN), key=str) == sorted(peer.fed, key=str)


async def test_a_settlement_that_a_leaving_peer_does_not_wait_for_is_not_forgotten(peer: Peer) -> None:
    claims = await peer.begin()
    await claims.claim(10)
    claims.shared(peer.fed, "x1")
    peer.store.replies.clear()
    settling = asyncio.create_task(claims.settle())
    while not await peer.store.count(KEYS.done_marks):
        await asyncio.sleep(0)
    settling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await settling
    peer.store.replies.set()
    await claims.settle()
    logged = {*peer.chunks_logged(Event.DONE), *peer.chunks_logged(Event.UNKNOWN)}
    assert logged == set(peer.fed)


async def another(peer: Peer) -> tuple[Ledger, LeaseSession]:
    """Somebody else's hand on the same ledger."""
    session = LeaseSession(MemoryStore(peer.server), peer.clock, 5.0)
    await session.start()
    store = MemoryStore(peer.server)
    writer = FencedWriter(store, session, KEYS.fence("b"), peer.clock)
    await writer.open()
    return Ledger(store, writer, KEYS, EPOCHS, "b"), session


async def test_what_was_trained_unclaimed_is_claimed_and_settled_when_the_store_is_back(peer: Peer) -> None:
    claims = await peer.begin()
    await claims.claim(10)
    assert claims.train_unclaimed(50) == 50
    assert len(set(peer.fed)) == 60
    claims.shared(peer.fed, "x1")
    await claims.settle()
    assert claims.owned == {}
    assert claims.done_chunks == 60
    assert len(peer.chunks_logged(Event.BORROWED)) == 50
    assert set(peer.chunks_logged(Event.CLAIMED)) == set(peer.chunks_logged(Event.DONE)) == set(peer.fed)


async def test_what_somebody_else_has_of_it_stays_theirs(peer: Peer) -> None:
    claims = await peer.begin()
    claims.train_unclaimed(40)
    theirs, session = await another(peer)
    taken = await theirs.claim(peer.fed[:5], session.id)
    claims.shared(peer.fed, "x1")
    await claims.settle()
    assert peer.withdrawn == set(peer.fed[:5])
    assert claims.done_chunks == 35
    assert claims.owned == {}
    done, lost = await theirs.settle([Settlement(chunk, at, "x2") for chunk, at in taken.owned.items()])
    assert (len(done), lost) == (5, [])
    await session.close()


async def test_no_chunk_is_trained_unclaimed_that_is_being_asked_for(peer: Peer) -> None:
    claims = await peer.begin()
    peer.store.replies.clear()
    claiming = asyncio.create_task(claims.claim(30))
    for _ in range(20):
        await asyncio.sleep(0)
    claims.train_unclaimed(30)
    peer.store.replies.set()
    await claiming
    assert len(peer.fed) == len(set(peer.fed)) == 60
    claims.shared(peer.fed, "x1")
    await claims.settle()
    assert claims.done_chunks == 60


async def test_what_is_unclaimed_and_untrained_is_handed_back_without_a_word_to_the_store(peer: Peer) -> None:
    claims = await peer.begin()
    claims.train_unclaimed(3)
    peer.store.fails_in = 1
    await claims.release(peer.fed)
    assert claims.owned == {}


async def test_what_is_shared_and_then_handed_back_is_not_settled_any_more(peer: Peer) -> None:
    claims = await peer.begin()
    await claims.claim(3)
    first, *_ = list(claims.owned)
    claims.shared([first], "x1")
    await claims.release(list(claims.owned))
    assert claims.unsettled_shared == 0
    await claims.settle()
    assert claims.done_chunks == 0


async def test_what_was_fed_unclaimed_while_the_peer_registers_again_is_claimed_next(peer: Peer) -> None:
    claims = await peer.begin()
    await claims.claim(10)
    peer.server.revoke(peer.session.id)
    await peer.session.close()
    claims.train_unclaimed(5)
    ledger = await peer.incarnation()
    peer.store.replies.clear()
    renewing = asyncio.create_task(claims.renew_ownership(ledger, peer.session.id))
    for _ in range(20):
        await asyncio.sleep(0)
    claims.train_unclaimed(7)
    peer.store.replies.set()
    assert await renewing == 0
    claims.shared(peer.fed, "x1")
    await claims.settle()
    assert claims.done_chunks == len(set(peer.fed)) == 22


async def test_a_chunk_that_was_fed_before_is_not_fed_again_unclaimed_when_the_members_change_while_the_store_is_away(
    peer: Peer,
) -> None:
    """Else its claim would be forgotten, and stay on a lease that lives: nobody could ever train it."""
    claims = await peer.begin()
    await claims.claim(6)
    claims.shared(peer.fed[:3], "x1")
    await claims.settle()
    kept = dict(claims.owned)
    claims.chooser.members_changed(peer.clock.monotonic())
    peer.server.unavailable = True
    with pytest.raises(StoreUnavailable):
        await claims.claim(1)
    claims.train_unclaimed(5)
    assert len(set(peer.fed)) == len(peer.fed) == 11
    peer.server.unavailable = False
    await claims.settle()
    assert kept.items() <= claims.owned.items()
    assert len(claims.owned) == 3 + 5


async def test_what_a_claim_of_several_transactions_asks_for_is_not_trained_unclaimed_while_the_first_is_under_way(
    peer: Peer,
) -> None:
    claims = await peer.begin()
    peer.store.replies.clear()
    claiming = asyncio.ensure_future(claims.claim(2 * CHUNKS_PER_TRANSACTION - 4))
    for _ in range(50):
        await asyncio.sleep(0)
    claims.train_unclaimed(20)
    peer.store.replies.set()
    while not claiming.done():
        await asyncio.sleep(0)
    await claiming
    assert len(peer.fed) > CHUNKS_PER_TRANSACTION
    assert len(peer.fed) == len(set(peer.fed))
