"""One peer asks etcd to forget what is older than ten minutes; watches that are behind list anew."""

from __future__ import annotations

import asyncio

from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Put, Reset
from gossip_caffe.peer.checkpoints.compaction import EVERY_S, KEPT_S, History, RevisionAt, compact_history
from tests.fake_clock import FakeClock


def test_only_what_is_older_than_ten_minutes_is_forgotten() -> None:
    history = History()
    asked = [history.note(RevisionAt(minute * EVERY_S, 100 + minute), ours=True) for minute in range(15)]
    assert asked == [0] * 10 + [100, 101, 102, 103, 104]


def test_who_loses_the_duty_or_finds_a_store_that_went_back_begins_anew() -> None:
    history = History()
    for minute in range(9):
        history.note(RevisionAt(minute * EVERY_S, 100 + minute), ours=True)
    assert history.note(RevisionAt(9 * EVERY_S, 109), ours=False) == 0
    assert [history.note(RevisionAt(minute * EVERY_S, 109), ours=True) for minute in range(10, 20)] == [
        0
    ] * 10
    assert history.note(RevisionAt(20 * EVERY_S, 109), ours=True) == 109
    assert history.note(RevisionAt(21 * EVERY_S, 50), ours=True) == 0
    assert history.note(RevisionAt(21 * EVERY_S + KEPT_S, 60), ours=True) == 50


async def test_a_watch_that_is_further_behind_lists_anew_and_one_that_is_not_goes_on() -> None:
    clock = FakeClock()
    server = MemoryEtcd(clock)
    store = MemoryStore(server)
    watch = store.watch("/k/")
    assert isinstance(await anext(watch), Reset)
    await store.transact([], [Put("/k/a", b"1")])
    kept = (await store.transact([], [Put("/k/a", b"2")])).revision
    asking = asyncio.ensure_future(compact_history(store, clock, lambda: True, lambda: kept))
    await clock.advance(KEPT_S - EVERY_S)
    assert not isinstance(await anext(watch), Reset)
    await clock.advance(3 * EVERY_S)
    assert not isinstance(await anext(watch), Reset), "the write of that very revision is there"
    await store.transact([], [Put("/k/a", b"3")])
    later = (await store.transact([], [Put("/k/a", b"4")])).revision
    await store.compact(later)
    assert isinstance(await anext(watch), Reset)
    asking.cancel()
