"""The view that every peer has of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Delete, Put
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import MembersView, PeerRecord
from tests.fake_clock import FakeClock

KEYS = JobKeys("j")


def record(peer: str, state: str = "training") -> PeerRecord:
    return PeerRecord(peer, "1", "h:1", "h", 1, state)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def test_each_change_of_a_record_is_told_once_with_what_was_before() -> None:
    server = MemoryEtcd(FakeClock())
    view = MembersView(MemoryStore(server), KEYS)
    told: list[tuple[PeerRecord | None, PeerRecord | None]] = []
    view.listen(lambda was, now: told.append((was, now)))

    def put(entry: PeerRecord) -> None:
        server.transact([], [Put(KEYS.peer(entry.peer), entry.to_json())])

    put(record("a"))
    following = asyncio.create_task(view.follow())
    await until(view.known.is_set)
    put(record("b", "joining"))
    put(record("b"))
    put(record("b"))  # nothing new
    server.transact([], [Put(KEYS.peer("x"), b"no record")])
    server.transact([], [Delete(KEYS.peer("a"))])
    await until(lambda: "a" not in view.members)
    assert told == [
        (None, record("a")),
        (None, record("b", "joining")),
        (record("b", "joining"), record("b")),
        (record("a"), None),
    ]
    assert view.in_state("training") == {"b": record("b")}
    following.cancel()


async def test_what_changed_behind_a_gap_is_told_too() -> None:
    server = MemoryEtcd(FakeClock())
    view = MembersView(MemoryStore(server), KEYS)
    told: list[tuple[PeerRecord | None, PeerRecord | None]] = []
    for peer in "ab":
        server.transact([], [Put(KEYS.peer(peer), record(peer).to_json())])
    following = asyncio.create_task(view.follow())
    await until(view.known.is_set)
    view.listen(lambda was, now: told.append((was, now)))
    server.transact([], [Delete(KEYS.peer("a"))])
    server.transact([], [Put(KEYS.peer("c"), record("c").to_json())])
    server.compact()
    await until(lambda: "c" in view.members)
    assert told == [(record("a"), None), (None, record("c"))]
    following.cancel()


async def test_who_is_in_a_state_is_one_object_until_that_changes() -> None:
    server = MemoryEtcd(FakeClock())
    view = MembersView(MemoryStore(server), KEYS)

    def put(entry: PeerRecord) -> None:
        server.transact([], [Put(KEYS.peer(entry.peer), entry.to_json())])

    for peer in "abc":
        put(record(peer))
    following = asyncio.create_task(view.follow())
    await until(view.known.is_set)
    before = view.in_state("training")
    put(record("d", "joining"))
    await until(lambda: "d" in view.members)
    assert view.in_state("training") is before
    put(record("d"))
    put(record("a", "draining"))
    server.transact([], [Delete(KEYS.peer("b"))])
    await until(lambda: "b" not in view.members)
    assert list(view.in_state("training")) == ["c", "d"]
    assert list(view.in_state("training", "draining")) == ["c", "d", "a"]
    assert list(before) == ["a", "b", "c"]
    following.cancel()
