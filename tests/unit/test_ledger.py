"""The account in the store: one owner a chunk, nothing settled twice, nothing lost when an owner dies."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.errors import LeaseLost, StoreUnavailable
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.memory_store import MemoryEtcd, MemoryStore
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.shards.ledger import Ledger, Settlement
from tests.fake_clock import FakeClock

EPOCHS = Epochs(records=60, chunk_records=10, budget_samples=120, seed=1)
ALL = [ChunkId(epoch, chunk) for epoch in range(2) for chunk in range(6)]


class Member:
    """One incarnation of a peer at the ledger."""

    def __init__(self, name: str, server: MemoryEtcd, clock: FakeClock) -> None:
        self.name = name
        self.store = MemoryStore(server)
        self.session = LeaseSession(self.store, clock, 5.0)
        self.writer = FencedWriter(self.store, self.session, JobKeys("j").fence(name), clock)
        self.ledger = Ledger(self.store, self.writer, JobKeys("j"), EPOCHS, name)
        self.owned: dict[ChunkId, int] = {}

    async def begin(self) -> Member:
        await self.session.start()
        await self.writer.open()
        await self.ledger.refresh()
        return self

    async def claim(self, *chunks: ChunkId) -> None:
        result = await self.ledger.claim(chunks, self.session.id)
        assert {*result.owned, *result.taken, *result.done} == set(chunks)
        self.owned.update(result.owned)

    async def settle(self, *chunks: ChunkId) -> list[ChunkId]:
        done, lost = await self.ledger.settle(
            [Settlement(chunk, self.owned[chunk], "x1") for chunk in chunks]
        )
        for chunk in (*done, *lost):
            del self.owned[chunk]
        return done


async def two() -> tuple[Member, Member, MemoryEtcd]:
    clock = FakeClock(automatic=True)
    server = MemoryEtcd(clock)
    return await Member("a", server, clock).begin(), await Member("b", server, clock).begin(), server


async def test_a_chunk_has_one_owner() -> None:
    a, b, _ = await two()
    await a.claim(*ALL[:4])
    await b.claim(*ALL[2:6])
    assert set(a.owned) == set(ALL[:4])
    assert set(b.owned) == set(ALL[4:6])


async def test_what_a_dead_owner_had_is_free_and_its_late_settlement_is_refused() -> None:
    a, b, server = await two()
    await a.claim(*ALL[:3])
    server.revoke(a.session.id)
    await b.claim(*ALL[:3])
    assert set(b.owned) == set(ALL[:3])
    with pytest.raises(LeaseLost):
        await a.settle(*ALL[:3])
    assert await b.settle(*ALL[:3]) == ALL[:3]


async def test_a_chunk_that_was_claimed_again_meanwhile_is_lost_to_its_first_owner() -> None:
    a, b, _ = await two()
    await a.claim(*ALL[:2])
    stale = dict(a.owned)
    await a.ledger.release(stale)
    await b.claim(ALL[0])
    done, lost = await a.ledger.settle([Settlement(chunk, stale[chunk], "x") for chunk in ALL[:2]])
    assert (done, lost) == ([], ALL[:2])
    assert await b.settle(ALL[0]) == [ALL[0]]


async def test_done_chunks_cannot_be_claimed_and_whole_epochs_are_folded_away() -> None:
    a, b, _ = await two()
    await a.claim(*ALL[:6])
    await a.settle(*ALL[:6])
    await b.claim(*ALL[:2])
    assert not b.owned
    assert await a.ledger.done_samples() == 60
    assert await a.ledger.fold() == 1
    assert await a.ledger.done_samples() == 60
    assert await a.ledger.states() == {}
    await b.claim(ALL[0], ALL[6])  # b does not know yet that the epoch is folded
    assert set(b.owned) == {ALL[6]}
    assert (await b.ledger.states())[1].owned == frozenset({0})


async def test_an_epoch_with_a_chunk_missing_is_not_folded() -> None:
    a, _, _ = await two()
    await a.claim(*ALL[:5])
    await a.settle(*ALL[:5])
    assert await a.ledger.fold() == 0
    assert (await a.ledger.states())[0].done == frozenset(range(5))


actions = st.tuples(
    st.sampled_from(["claim", "settle", "release", "die", "lose reply", "drop request", "fold"]),
    st.integers(0, 1),
    st.sets(st.integers(0, 11), min_size=1, max_size=5),
)


@settings(max_examples=150)
@given(st.lists(actions, max_size=30))
def test_under_any_history_a_chunk_has_at_most_one_owner_and_is_settled_at_most_once(
    history: list[tuple[str, int, set[int]]],
) -> None:
    async def run() -> None:
        clock = FakeClock(automatic=True)
        server = MemoryEtcd(clock)
        members = [await Member(name, server, clock).begin() for name in ("a", "b")]
        settled: Counter[ChunkId] = Counter()
        for action, index, numbers in history:
            member = members[index]
            chunks = [ALL[number] for number in sorted(numbers)]
            ours = [chunk for chunk in chunks if chunk in member.owned]
            try:
                if action == "claim":
                    await member.claim(*[chunk for chunk in chunks if chunk not in member.owned])
                elif action == "settle":
                    settled.update(await member.settle(*ours))
                elif action == "release":
                    await member.ledger.release({chunk: member.owned[chunk] for chunk in ours})
                    for chunk in ours:
                        del member.owned[chunk]
                elif action == "fold":
                    await member.ledger.fold()
                elif action == "lose reply":
                    member.store.lose_replies = 1
                elif action == "drop request":
                    member.store.drop_requests = 1
                else:
                    await member.session.close()
                    members[index] = await Member(member.name, server, clock).begin()
            except StoreUnavailable:
                pass  # surely not applied
            first, second = members
            assert not set(first.owned) & set(second.owned)
        assert all(count == 1 for count in settled.values())
        for member in members:
            await member.session.close()

    asyncio.run(run())
