"""A peer is asked to leave through the store."""

from __future__ import annotations

import asyncio

from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Put
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.leave_requests import ask_to_leave, wait_for_leave_request, wait_until_gone
from gossip_caffe.membership.members import PeerRecord
from tests.fake_clock import FakeClock

KEYS = JobKeys("j")


def register(server: MemoryEtcd, peer: str) -> PeerRecord:
    lease = server.grant(5.0).id
    record = PeerRecord(peer, f"{lease:x}", "h:1", "h", 1, "training")
    server.transact([], [Put(KEYS.peer(peer), record.to_json(), lease)])
    return record


async def test_only_the_peer_that_is_asked_learns_of_it() -> None:
    server = MemoryEtcd(FakeClock())
    register(server, "p1")
    register(server, "p10")
    one, ten = (
        asyncio.create_task(wait_for_leave_request(MemoryStore(server), KEYS, peer)) for peer in ("p1", "p10")
    )
    assert await ask_to_leave(MemoryStore(server), KEYS, "p10", "peer stop") is not None
    assert await ten == "peer stop"
    await asyncio.sleep(0)
    assert not one.done()
    one.cancel()


async def test_a_request_made_before_the_peer_looks_is_seen() -> None:
    server = MemoryEtcd(FakeClock())
    register(server, "p1")
    await ask_to_leave(MemoryStore(server), KEYS, "p1", "peer stop")
    assert await wait_for_leave_request(MemoryStore(server), KEYS, "p1") == "peer stop"


async def test_the_next_peer_of_that_name_is_not_asked() -> None:
    server = MemoryEtcd(FakeClock())
    record = register(server, "p1")
    await ask_to_leave(MemoryStore(server), KEYS, "p1", "peer stop")
    server.revoke(int(record.incarnation, 16))
    assert await ask_to_leave(MemoryStore(server), KEYS, "p1", "peer stop") is None
    register(server, "p1")
    assert KEYS.leave("p1") not in server.keys
    assert await wait_until_gone(MemoryStore(server), KEYS, record, FakeClock(), 0.0)


async def test_a_peer_that_stays_is_waited_for_no_longer_than_said() -> None:
    clock = FakeClock(automatic=True)
    server = MemoryEtcd(FakeClock())
    record = register(server, "p1")
    assert not await wait_until_gone(MemoryStore(server), KEYS, record, clock, 5.0)
    assert clock.monotonic() >= 1005.0
