"""A real etcd stays small: history that is asked for is forgotten, and its file is made smaller while it serves."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.defragmentation import Defragmenter
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.errors import StoreError
from gossip_caffe.membership.etcd.etcd_channel import EtcdConnection
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.etcd.store import Changed, Put
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.peer.checkpoints.compaction import EVERY_S, KEPT_S, compact_history
from gossip_caffe.wire import etcd_pb2 as pb
from tests.etcd_copy import store_of
from tests.fake_clock import FakeClock

DEADLINE_S = 120.0
VALUE = random.Random(1).randbytes(1_000_000)
MANY = 200
TTL_S = 30.0


@pytest.fixture
def keeps_all(tmp_path: Path) -> Iterator[EtcdServer]:
    """An etcd that nobody tells to forget anything, as another's is by default."""
    server = EtcdServer(tmp_path / "etcd", flags=("--auto-compaction-retention", "0"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def store(keeps_all: EtcdServer) -> AsyncIterator[EtcdStore]:
    store = store_of(keeps_all)
    yield store
    await store.close()


async def read_at(server: EtcdServer, key: str, revision: int) -> bytes:
    """What a key was at a revision. Raises StoreError when that is forgotten."""
    connection = EtcdConnection([server.endpoint], SystemClock(), random.Random(1))
    try:
        request = pb.RangeRequest(key=key.encode(), revision=revision)
        return bytes((await connection.call("KV/Range", request, pb.RangeResponse)).kvs[0].value)
    finally:
        await connection.close()


async def test_what_is_older_than_ten_minutes_is_forgotten_by_a_real_etcd(
    keeps_all: EtcdServer, store: EtcdStore
) -> None:
    clock = FakeClock()
    revisions = [(await store.transact([], [Put("/k", b"%d" % n)])).revision for n in range(3)]
    newest = revisions[1]
    asking = asyncio.ensure_future(compact_history(store, clock, lambda: True, lambda: newest))
    await clock.advance(KEPT_S + EVERY_S - 1.0)
    assert await read_at(keeps_all, "/k", revisions[0]) == b"0"
    await clock.advance(2 * EVERY_S)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await read_at(keeps_all, "/k", revisions[0])
            except StoreError as error:
                why = error.message
                break
            await asyncio.sleep(0.05)
    assert "compacted" in why
    assert await read_at(keeps_all, "/k", newest) == b"1"
    found = await store.get("/k")
    assert found is not None
    assert found.value == b"2"
    await clock.advance(5 * EVERY_S)  # what is forgotten already is asked for again, and refused
    assert not asking.done()
    asking.cancel()


async def fill(store: EtcdStore) -> None:
    """Write much, remove it, and forget that."""
    for number in range(MANY):
        last = (await store.transact([], [Put("/junk", VALUE + b"%d" % number)])).revision
    await store.compact(last)


async def small_in_use(store: EtcdStore) -> None:
    """Compaction frees the pages of the file bit by bit."""
    async with asyncio.timeout(DEADLINE_S):
        while (await store.sizes()).used_bytes > MANY * len(VALUE) // 4:
            await store.transact([], [Put("/tick", b"")])  # which commits
            await asyncio.sleep(0.1)


async def test_a_file_that_is_much_larger_than_what_is_in_it_is_made_smaller_and_peers_ride_it_out(
    keeps_all: EtcdServer, store: EtcdStore, tmp_path: Path
) -> None:
    await fill(store)
    await small_in_use(store)
    file = tmp_path / "etcd" / "member" / "snap" / "db"
    before = file.stat().st_size
    assert before > MANY * len(VALUE) // 2

    clock = SystemClock()
    peer = EtcdStore([keeps_all.endpoint], clock, random.Random(2))
    session = LeaseSession(peer, clock, TTL_S)
    await session.start()
    writer = FencedWriter(peer, session, JobKeys("job").fence("p0"), clock)
    await writer.open()
    wrote: list[int] = []
    goes_on = True

    async def write() -> None:
        while goes_on:
            result = await writer.transact([], [Put("/job/k", b"%d" % len(wrote))])
            assert result.succeeded
            wrote.append(result.revision)
            await asyncio.sleep(0)

    seen: list[bytes] = []

    async def watch() -> None:
        async for item in peer.watch("/job/"):
            if isinstance(item, Changed) and item.value is not None:
                seen.append(item.value.value)

    said: list[str] = []
    defragmenter = Defragmenter(tmp_path / "etcd", said.append, now=iter([0.0, 1.0, 1e6, 2e6]).__next__)
    watching, writing = asyncio.create_task(watch()), asyncio.create_task(write())
    async with asyncio.timeout(DEADLINE_S):
        while len(seen) < 20:
            await asyncio.sleep(0.01)
        await defragmenter.look(store)
        assert not said, "what has just begun is left alone"
        begun = len(wrote)
        await defragmenter.look(store)
        while len(wrote) < begun + 100:
            await asyncio.sleep(0.01)
        goes_on = False
        await writing
        while int(seen[-1]) < len(wrote) - 1:
            await asyncio.sleep(0.01)
    watching.cancel()
    assert file.stat().st_size < before / 10
    assert len(said) == 1
    assert "etcd's file" in said[0]
    assert session.owns(), "its lease outlives that"
    assert wrote == sorted(set(wrote))
    first = int(seen[0])
    assert [int(value) for value in seen] == list(range(first, len(wrote)))
    found = await store.get("/job/k")
    assert found is not None
    assert found.mod_revision == wrote[-1]
    await defragmenter.look(store)
    assert len(said) == 1, "nothing is left to be made smaller"
    await session.close()
    await peer.close()


async def test_an_etcd_that_is_killed_while_its_file_is_made_smaller_has_what_it_acknowledged(
    keeps_all: EtcdServer, store: EtcdStore
) -> None:
    await fill(store)
    await small_in_use(store)
    before = (await store.transact([], [Put("/kept", b"1")])).revision
    await asyncio.sleep(
        1.0
    )  # one of 3.5.1 has its newest writes in memory alone for a moment: no part of this
    begun = time.monotonic()
    making = asyncio.ensure_future(store.defragment())
    await asyncio.sleep(0.02)
    keeps_all.kill()
    making.cancel()
    keeps_all.start()
    again = store_of(keeps_all)
    found = await again.get("/kept")
    assert found is not None, f"after {time.monotonic() - begun:.1f} s"
    assert (found.value, found.mod_revision) == (b"1", before)
    assert (await again.transact([], [Put("/kept", b"2")])).revision > before
    await again.close()
