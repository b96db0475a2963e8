"""Exactly-once writes over a store that loses requests and replies, and leases that are given up in time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.errors import LeaseLost, StoreUnavailable
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Absent, KeyValue, ModifiedAt, Put
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.session import LeaseSession
from tests.fake_clock import FakeClock


async def opened(
    server: MemoryEtcd, clock: FakeClock, key: str = "fence"
) -> tuple[MemoryStore, LeaseSession, FencedWriter]:
    store = MemoryStore(server)
    session = LeaseSession(store, clock, 5.0)
    await session.start()
    writer = FencedWriter(store, session, key, clock)
    await writer.open()
    return store, session, writer


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=15))
def test_a_counter_counts_exactly_the_increments_that_were_acknowledged(
    faults: list[tuple[int, int]],
) -> None:
    async def run() -> None:
        clock = FakeClock(automatic=True)
        server = MemoryEtcd(clock)
        store, session, writer = await opened(server, clock)
        acknowledged = 0
        for lost_replies, dropped_requests in faults:
            item = await MemoryStore(server).get("counter")
            value = int(item.value) if item else 0
            assert value == acknowledged
            guard = ModifiedAt("counter", item.mod_revision) if item else Absent("counter")
            store.lose_replies, store.drop_requests = lost_replies, dropped_requests
            try:
                result = await writer.transact([guard], [Put("counter", b"%d" % (value + 1))])
            except StoreUnavailable:
                pass  # not applied, and never will be
            else:
                assert result.succeeded
                acknowledged += 1
            store.lose_replies = store.drop_requests = 0
        await session.close()

    asyncio.run(run())


async def test_a_failed_guard_tells_what_is_there_without_the_fence() -> None:
    clock = FakeClock()
    server = MemoryEtcd(clock)
    _, session, writer = await opened(server, clock)
    await writer.transact([], [Put("k", b"1")])
    result = await writer.transact([Absent("k")], [Put("k", b"2")])
    assert not result.succeeded
    assert [item.key for item in result.found] == ["k"]
    await session.close()


async def test_a_lost_request_of_an_incarnation_that_was_replaced_is_given_up_at_once() -> None:
    """Its own clock may still say that it has the lease; the fence says whose it is."""
    clock = FakeClock(automatic=True)
    server = MemoryEtcd(clock)
    store, session, writer = await opened(server, clock)
    server.revoke(session.id)
    _, successor, _ = await opened(server, clock)
    store.lose_replies = 1
    with pytest.raises(LeaseLost, match="not ours any more"):
        await writer.transact([], [Put("k", b"1")])
    assert await MemoryStore(server).get("k") is None
    await session.close()
    await successor.close()


async def test_after_the_lease_nothing_is_written() -> None:
    clock = FakeClock()
    server = MemoryEtcd(clock)
    _, session, writer = await opened(server, clock)
    server.revoke(session.id)
    with pytest.raises(LeaseLost):
        await writer.transact([], [Put("k", b"1")])
    assert await MemoryStore(server).get("k") is None
    await session.close()


async def test_a_second_incarnation_cannot_open_the_fence_while_the_first_lives() -> None:
    clock = FakeClock()
    server = MemoryEtcd(clock)
    _, session, _ = await opened(server, clock)
    with pytest.raises(LeaseLost):
        await opened(server, clock)
    await session.close()
    _, again, _ = await opened(server, clock)
    await again.close()


async def test_a_session_lives_as_long_as_it_is_renewed_and_is_given_up_before_the_server_does() -> None:
    clock = FakeClock()
    server = MemoryEtcd(clock)
    _, session, _ = await opened(server, clock)
    for _ in range(100):
        await clock.advance(0.5)
        assert session.owns()
    server.unavailable = True
    for _ in range(60):
        await clock.advance(0.1)
        server.tick()
        if session.owns():
            assert server.renew(session.id) > 0, "we think that we own what the server has let go"
    assert session.lost.is_set()
    assert "renewal" in session.reason
    await session.close(revoke=False)


async def test_a_session_that_the_server_ended_knows_it_at_the_next_renewal() -> None:
    clock = FakeClock()
    server = MemoryEtcd(clock)
    _, session, _ = await opened(server, clock)
    server.revoke(session.id)
    await clock.advance(2.0)
    assert session.lost.is_set()
    assert not session.owns()
    await session.close()


async def test_a_writer_whose_writes_the_store_forgot_gives_up_its_lease_and_may_begin_anew() -> None:
    """The lease is older than what was forgotten, so it could be renewed for ever."""
    clock = FakeClock()
    server = MemoryEtcd(clock)
    _, session, writer = await opened(server, clock)
    await writer.transact([], [Put("k", b"1", session.id)])
    memory = server.memory()
    await writer.transact([], [Put("k", b"2", session.id)])
    written = writer.revision
    server.go_back(memory)
    with pytest.raises(LeaseLost, match=f"forgot what it had acknowledged at revision {written}"):
        await writer.transact([], [Put("k", b"3", session.id)])
    assert writer.forgotten == (written, memory.revision)
    assert session.lost.is_set()
    assert not session.owns()
    assert await MemoryStore(server).get("k") is not None
    await session.close()
    assert await MemoryStore(server).get("k") is None, "what hung on the lease is nobody's now"
    _, again, successor = await opened(server, clock)
    await successor.transact([], [Put("k", b"4")])
    await again.close()


async def test_a_writer_that_wrote_nothing_since_goes_on_when_the_store_forgets_what_others_wrote() -> None:
    clock = FakeClock()
    server = MemoryEtcd(clock)
    _, session, writer = await opened(server, clock)
    memory = server.memory()
    await MemoryStore(server).transact([], [Put("others", b"1")])
    server.go_back(memory)
    assert (await writer.transact([], [Put("k", b"1")])).succeeded
    assert session.owns()
    await session.close()


async def test_a_writer_that_has_nothing_to_write_finds_out_when_it_asks() -> None:
    clock = FakeClock()
    server = MemoryEtcd(clock)
    _, session, writer = await opened(server, clock)
    await writer.check()
    memory = server.memory()
    await writer.transact([], [Put("k", b"1")])
    await writer.check()
    server.go_back(memory)
    with pytest.raises(LeaseLost, match="forgot"):
        await writer.check()
    assert session.lost.is_set()
    await session.close()


async def test_a_writer_whose_fence_was_never_known_gives_up_too() -> None:
    """Registered in what was forgotten; a lease that lives is another's word for nothing."""
    clock = FakeClock()
    server = MemoryEtcd(clock)
    memory = server.memory()
    _, session, writer = await opened(server, clock)
    server.go_back(memory)
    with pytest.raises(LeaseLost, match="gone"):
        await writer.check()
    assert writer.forgotten is None
    await session.close()


async def test_a_lease_that_was_given_up_and_lives_again_is_ended_before_the_next_one_begins() -> None:
    """A store that was away for longer than a lease gives each its whole time again when it is back."""
    clock = FakeClock()
    server = MemoryEtcd(clock)
    _, session, _ = await opened(server, clock)
    server.unavailable = True
    for _ in range(60):
        await clock.advance(0.1)
    assert session.lost.is_set()
    server.give_time()
    server.unavailable = False
    await session.close()
    _, again, _ = await opened(server, clock)
    await again.close()


async def test_a_write_that_arrives_while_it_looks_back_is_not_taken_for_a_forgotten_one() -> None:
    """Nobody waits for the last write of a lease that was lost; its reply may come before the answer to the look."""
    clock = FakeClock()
    server = MemoryEtcd(clock)
    store, session, writer = await opened(server, clock)
    await writer.transact([], [Put("k", b"1")])

    async def slow_get(key: str) -> KeyValue | None:
        found = await MemoryStore(server).get(key)
        await writer.transact([], [Put("k", b"2")])
        return found

    store.get = slow_get  # type: ignore[method-assign]
    await writer.check_last_write()
    assert writer.forgotten is None
    await session.close()
