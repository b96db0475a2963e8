"""A store that renews leases and takes no writes counts as away, and one line says why, with the remedy."""

from __future__ import annotations

import pytest

from gossip_caffe.errors import Ambiguous, LeaseLost, StoreUnavailable, WritesRefused
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.refusals import refused_by_alarm, write_refused
from gossip_caffe.membership.etcd.store import Absent, Put
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.membership.writing import SILENT_S, Writing
from gossip_caffe.peer.store_news import AWAY, NO_ANSWER, SAY_AGAIN_AFTER_S, StoreNews
from tests.fake_clock import FakeClock

FULL = "etcdserver: mvcc: database space exceeded"


async def test_a_write_that_was_refused_makes_the_store_away_until_one_gets_through() -> None:
    clock = FakeClock(automatic=True)
    server = MemoryEtcd(clock)
    session = LeaseSession(MemoryStore(server), clock, 5.0)
    await session.start()
    writer = FencedWriter(MemoryStore(server), session, "fence", clock)
    await writer.open()
    assert not writer.writing.stuck

    server.refuses = FULL
    assert (await writer.transact([], [Put("last", b"1")])).succeeded, "it used up the quota, and was applied"
    assert not writer.writing.stuck
    with pytest.raises(WritesRefused):
        await writer.transact([Absent("a")], [Put("a", b"1")])
    assert writer.writing.stuck
    assert "database space exceeded" in writer.writing.refusal
    assert "alarm disarm" in writer.writing.refusal
    await clock.sleep(20.0)
    assert session.owns()
    assert not session.overdue(), "leases are renewed all the same"

    server.refuses = ""
    assert (await writer.transact([], [])).succeeded
    assert not writer.writing.stuck
    assert not writer.writing.refusal
    assert (await writer.transact([Absent("a")], [Put("a", b"1")])).succeeded, "it was not applied before"
    await session.close()


async def test_a_lost_reply_is_settled_although_the_store_refuses_meanwhile() -> None:
    clock = FakeClock(automatic=True)
    server = MemoryEtcd(clock)
    session = LeaseSession(MemoryStore(server), clock, 60.0)
    await session.start()

    class FullsUp(MemoryStore):
        """The reply of one write is lost, the next writes are refused."""

        refused = 0

        async def transact(self, guards, operations):  # type: ignore[no-untyped-def]
            try:
                return await super().transact(guards, operations)
            except Ambiguous:
                server.refuses = "etcdserver: too many requests"
                raise
            except WritesRefused:
                self.refused += 1
                if self.refused == 3:
                    server.refuses = ""
                raise

    store = FullsUp(server)
    writer = FencedWriter(store, session, "fence", clock)
    await writer.open()
    store.drop_requests = 1
    with pytest.raises(StoreUnavailable):
        await writer.transact([Absent("a")], [Put("a", b"1")])
    assert store.refused == 3
    assert not writer.writing.stuck
    store.lose_replies = 1
    store.refused = 0
    assert (await writer.transact([Absent("a")], [Put("a", b"1")])).succeeded
    await session.close()


async def test_writes_that_nobody_answers_for_long_count_as_refused_and_a_lost_lease_is_another_matter() -> (
    None
):
    clock = FakeClock(automatic=True)
    writing = Writing(clock)
    writing.begin()
    await clock.sleep(SILENT_S / 2)
    writing.begin()
    assert not writing.stuck
    await clock.sleep(SILENT_S / 2 + 0.1)
    assert writing.stuck, "the first of them counts"
    assert not writing.refusal
    writing.failed(LeaseLost("over"))
    assert not writing.refusal
    writing.got_through()
    assert not writing.stuck


@pytest.mark.parametrize(
    ("detail", "remedy"),
    [
        (FULL, "compact, defragment, then 'etcdctl alarm disarm'"),
        ("etcdserver: too many requests", "overloaded"),
        ("etcdserver: corrupt cluster", "alarm list"),
        ("etcdserver: request is too large", "--max-request-bytes"),
        ("etcdserver: too many operations in txn request", "--max-txn-ops"),
        ("something else", "etcd's log"),
    ],
)
def test_a_refusal_says_what_to_do(detail: str, remedy: str) -> None:
    error = write_refused(detail)
    assert str(error).startswith(f"etcd refuses writes: {detail.removeprefix('etcdserver: ')}; ")
    assert remedy in error.remedy


def test_an_alarm_of_etcd_is_said_as_the_refusal_that_writes_meet() -> None:
    error = refused_by_alarm("memberID:9372538179322589801 alarm:NOSPACE ")
    assert error is not None
    assert error.message == write_refused(FULL).message
    assert refused_by_alarm("memberID:1 alarm:CORRUPT ") is not None
    assert refused_by_alarm("etcdserver: no leader") is None


async def test_a_refusal_is_said_once_and_so_is_its_end_however_often_the_store_wavers() -> None:
    clock, lines = FakeClock(automatic=True), list[str]()
    writing, news = Writing(clock), StoreNews("p0", clock, lines.append)
    for _ in range(100):
        news.look(writing, answers=True)
        assert not lines
    writing.begin()
    writing.failed(write_refused(FULL))
    for _ in range(100):
        news.look(writing, answers=True)
        await clock.sleep(0.6)
    assert len(lines) == 1
    assert "p0: etcd refuses writes: mvcc: database space exceeded; compact" in lines[0]
    writing.got_through()
    news.look(writing, answers=True)
    assert lines[1:] == ["p0: etcd takes writes again, after 60 s"]
    for _ in range(10):  # it wavers
        writing.failed(write_refused(FULL))
        news.look(writing, answers=True)
        writing.got_through()
        news.look(writing, answers=True)
    assert len(lines) == 2
    await clock.sleep(SAY_AGAIN_AFTER_S + 1)
    writing.failed(write_refused(FULL))
    news.look(writing, answers=True)
    assert len(lines) == 3


async def test_a_store_that_is_away_is_told_from_one_that_answers_no_writes() -> None:
    clock, lines = FakeClock(automatic=True), list[str]()
    writing, news = Writing(clock), StoreNews("p0", clock, lines.append)
    writing.begin()
    await clock.sleep(SILENT_S + 1)
    news.look(writing, answers=False)
    news.look(writing, answers=False)
    assert len(lines) == 1
    assert AWAY in lines[0]
    news.look(writing, answers=True)
    assert len(lines) == 2
    assert NO_ANSWER in lines[1]
    writing.got_through()
    await clock.sleep(60.0)
    news.look(writing, answers=True)
    assert lines[2] == "p0: etcd takes writes again, after 60 s"
    await clock.sleep(SAY_AGAIN_AFTER_S)
    news.look(writing, answers=False)
    await clock.sleep(7.0)
    news.look(writing, answers=True)
    assert AWAY in lines[3]
    assert lines[4] == "p0: etcd answers again, after 7 s"
