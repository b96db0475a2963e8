"""The journal of the search: each entry once and in order, whatever is lost on the way, and bounded keys."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.errors import LeaseLost, StoreUnavailable
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Delete, Exists, Put
from gossip_caffe.sim.virtual_time import VirtualClock, run
from gossip_caffe.tune.search import journal as journal_file
from gossip_caffe.tune.search.journal import BLOCK, Journal, JournalTrimmed
from tests.fake_clock import FakeClock

PREFIX = "/journal/"


class World:
    """One etcd, and any number of journals over it."""

    def __init__(self, clock: VirtualClock | FakeClock) -> None:
        self.clock = clock
        self.etcd = MemoryEtcd(clock)
        self._nonces = itertools.count()

    def journal(self) -> tuple[Journal, MemoryStore]:
        store = MemoryStore(self.etcd)
        return Journal(store, PREFIX, self.clock, lambda: f"n{next(self._nonces)}"), store


@pytest.fixture
async def world() -> World:
    return World(VirtualClock())


def entries(first: int, last: int) -> list[dict[str, int]]:
    return [{"n": number} for number in range(first, last)]


async def test_what_one_appends_all_read_in_one_order(world: World) -> None:
    (one, _), (other, _) = world.journal(), world.journal()
    await one.append([{"n": 0}])
    await other.append([{"n": 1}, {"n": 2}])
    await one.append([{"n": 3}])
    assert await one.read(1) == entries(1, 4)
    assert await other.read(0) == entries(0, 3), (
        "the read after an append ends with it, and asks etcd nothing"
    )
    assert await other.read(3) == entries(3, 4)
    assert await other.read(4) == []


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["", "reply", "request"]), st.integers(1, 3)),
        max_size=25,
    )
)
def test_every_entry_is_there_once_though_requests_and_replies_are_lost(
    appends: list[tuple[int, str, int]],
) -> None:
    async def course() -> None:
        world = World(VirtualClock())
        journals = [world.journal() for _ in range(3)]
        wanted, number = [], 0
        for who, lost, size in appends:
            journal, store = journals[who]
            store.lose_replies, store.drop_requests = int(lost == "reply"), int(lost == "request")
            await journal.append(entries(number, number + size))
            wanted += entries(number, number + size)
            number += size
        for journal, _ in journals:
            await journal.read(number)  # after its own append it ends there
            assert await journal.read(0) == wanted

    run(course())


async def test_many_at_once_lose_nothing(world: World) -> None:
    journals = [world.journal() for _ in range(6)]
    journals[2][1].lose_replies = 3

    async def write(who: int) -> None:
        for number in range(20):
            await journals[who][0].append([{"who": who, "n": number}])
            await asyncio.sleep(0)

    await asyncio.gather(*(write(who) for who in range(6)))
    found = await world.journal()[0].read(0)
    assert len(found) == 120
    for who in range(6):
        assert [entry["n"] for entry in found if entry["who"] == who] == list(range(20))


async def test_a_writer_whose_guard_is_gone_writes_no_more(world: World) -> None:
    journal, store = world.journal()
    await store.transact([], [Put("/worker", b"")])
    journal.guards = (Exists("/worker"),)
    await journal.append([{"n": 0}])
    await store.transact([], [Delete("/worker")])
    with pytest.raises(LeaseLost):
        await journal.append([{"n": 1}])
    assert await journal.read(0) == entries(0, 1)


async def test_a_snapshot_bounds_the_keys_and_readers_that_are_behind_begin_from_it(world: World) -> None:
    (writer, store), (reader, _) = world.journal(), world.journal()
    counts = []
    for round_ in range(6):
        for number in range(4 * BLOCK):
            await writer.append([{"n": round_ * 4 * BLOCK + number}])
        await writer.save({"made": round_}, (round_ + 1) * 4 * BLOCK)
        counts.append(await store.count(PREFIX))
    assert max(counts) <= 9 * BLOCK
    with pytest.raises(JournalTrimmed):
        await reader.read(0)
    assert await reader.load() == ({"made": 5}, 24 * BLOCK)
    assert await reader.read(20 * BLOCK) == entries(20 * BLOCK, 24 * BLOCK)
    await reader.save({"made": "older"}, 8 * BLOCK)
    assert await reader.load() == ({"made": 5}, 24 * BLOCK)


async def test_a_large_snapshot_is_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_file, "PART_BYTES", 1000)
    journal, store = world.journal()
    state = {"values": [f"{number * number * 2654435761 % 2**61:x}" for number in range(2000)]}
    await journal.save(state, 3)
    assert len(await store.keys(f"{PREFIX}parts/")) > 10
    await journal.save(state, 5)
    assert await world.journal()[0].load() == (state, 5)
    await store.transact([], [Delete((await store.keys(f"{PREFIX}parts/"))[2])])
    assert await journal.load() is None, "a part is missing"


async def test_values_that_no_worker_has_written_are_no_entries(world: World) -> None:
    journal, store = world.journal()
    await journal.append(entries(0, 3))
    key = next(iter(await store.keys(f"{PREFIX}log/")))
    for value in (b"\xff", b"[]", b'{"entry": 7}', json.dumps({"by": "x"}).encode()):
        await store.transact([], [Put(key, value)])
        assert await world.journal()[0].read(0) == [{}, {"n": 1}, {"n": 2}]
    await store.transact([], [Put(f"{PREFIX}snapshot", b"{}")])
    assert await journal.load() is None


async def test_an_etcd_that_is_away_is_said_and_nothing_is_written_later(world: World) -> None:
    journal, _ = world.journal()
    await journal.append(entries(0, 1))
    world.etcd.unavailable = True
    with pytest.raises(StoreUnavailable):
        await journal.append([{"n": 7}])
    world.etcd.unavailable = False
    await journal.append(entries(1, 2))
    assert await journal.read(0) == entries(0, 2)
