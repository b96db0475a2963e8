"""What a client of etcd believes once etcd has forgotten what it acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gossip_caffe.clock import SystemClock
from gossip_caffe.errors import LeaseLost
from gossip_caffe.membership.etcd.store import Delete, Operation, Put, Reset, Store, WatchItem
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.session import LeaseSession
from tests.etcd_copy import EtcdCopied, store_of

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdCopied]:
    etcd = EtcdCopied(tmp_path)
    yield etcd
    etcd.server.stop()


class View:
    """What somebody believes who follows a watch."""

    def __init__(self, watch: AsyncIterator[WatchItem]) -> None:
        self.believes: dict[str, bytes] = {}
        self.resets = 0
        self._watch = watch

    async def follow(self) -> None:
        async for item in self._watch:
            if isinstance(item, Reset):
                self.resets += 1
                self.believes = {entry.key: entry.value for entry in item.listing.items}
            elif item.value is None:
                self.believes.pop(item.key, None)
            else:
                self.believes[item.key] = item.value.value

    async def until(self, believes: dict[str, bytes]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.believes != believes:
                await asyncio.sleep(0.02)


async def put(store: Store, key: str, value: bytes) -> None:
    assert (await store.transact([], [Put(key, value)])).succeeded


ELSEWHERE = [Put("/elsewhere", b"")] * 20
"""So many that the revision which the watch has seen comes again and is passed."""


@pytest.mark.parametrize(
    ("forgotten", "meanwhile"),
    [
        pytest.param(Put("/w/b", b"2"), [], id="behind what was seen"),
        pytest.param(Put("/w/b", b"2"), [Put("/w/b", b"3")], id="the same key at the same revision"),
        pytest.param(Put("/w/b", b"2"), [Put("/w/b", b"3"), *ELSEWHERE], id="writes that were missed"),
        pytest.param(Put("/w/c", b"2"), [Delete("/w/a"), *ELSEWHERE], id="less a key"),
        pytest.param(Delete("/w/b"), [Delete("/w/a"), *ELSEWHERE], id="another key deleted"),
    ],
)
async def test_a_watch_believes_nothing_that_never_was(
    etcd: EtcdCopied, forgotten: Operation, meanwhile: list[Operation]
) -> None:
    store = store_of(etcd.server)
    await store.transact([], [Put("/w/a", b"1"), Put("/w/b", b"1")])
    await asyncio.to_thread(etcd.keep)
    view = View(store.watch("/w/"))
    following = asyncio.create_task(view.follow())
    await view.until({"/w/a": b"1", "/w/b": b"1"})
    await store.transact([], [forgotten])
    await view.until({item.key: item.value for item in (await store.list("/w/")).items})
    assert view.resets == 1
    await etcd.go_back(meanwhile)
    truth = {item.key: item.value for item in (await store.list("/w/")).items}
    await view.until(truth)
    await put(store, "/w/d", b"later")
    await view.until({**truth, "/w/d": b"later"})
    assert view.resets == 2
    following.cancel()
    await store.close()


async def test_a_watch_resumes_where_it_was_when_etcd_only_died(etcd: EtcdCopied) -> None:
    store = store_of(etcd.server)
    await put(store, "/w/a", b"1")
    await put(store, "/w/b", b"1")
    view = View(store.watch("/w/"))
    following = asyncio.create_task(view.follow())
    await view.until({"/w/a": b"1", "/w/b": b"1"})
    await store.transact([], [Put("/w/c", b"1"), Delete("/w/b")])
    await view.until({"/w/a": b"1", "/w/c": b"1"})
    await put(store, "/elsewhere", b"")
    await asyncio.to_thread(etcd.server.kill)
    await asyncio.to_thread(etcd.server.start)
    await put(store, "/w/a", b"2")
    await view.until({"/w/a": b"2", "/w/c": b"1"})
    assert view.resets == 1
    following.cancel()
    await store.close()


async def test_a_writer_that_was_forgotten_gives_up_the_lease_and_its_name_is_free_at_once(
    etcd: EtcdCopied,
) -> None:
    store, clock = store_of(etcd.server), SystemClock()
    session = LeaseSession(store, clock, 600.0)
    await session.start()
    writer = FencedWriter(store, session, "/w/fence", clock)
    await writer.open()
    await asyncio.to_thread(etcd.keep)
    await writer.transact([], [Put("/w/a", b"forgotten")])
    await etcd.go_back()
    with pytest.raises(LeaseLost, match="forgot"):
        await writer.transact([], [Put("/w/a", b"not written")])
    assert session.lost.is_set()
    await session.close()
    again = LeaseSession(store, clock, 600.0)
    await again.start()
    await FencedWriter(store, again, "/w/fence", clock).open()
    assert await store.get("/w/a") is None
    await again.close()
    await store.close()
