"""The account in the store: one owner a chunk, nothing settled twice, nothing lost when an owner dies."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.errors import Ambiguous, LeaseLost, StoreUnavailable
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Guard, Operation, TxnResult
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
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
        self.told: list[str] = []
        self.ledger = Ledger(self.store, self.writer, JobKeys("j"), EPOCHS, name, self._note)
        self.owned: dict[ChunkId, int] = {}

    def _note(self, key: str, revision: int, why: str) -> None:
        self.told.append(key)

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


async def test_a_claim_of_nothing_but_done_chunks_is_not_sent() -> None:
    one, other, _ = await two()
    for epoch in range(1):
        await one.claim(*ALL[:6])
        await one.settle(*ALL[:6])
        assert await one.ledger.fold() == epoch + 1
    await other.ledger.refresh()
    before = other.writer.revision
    result = await other.ledger.claim(ALL[:6], other.session.id)
    assert (set(result.done), dict(result.owned)) == (set(ALL[:6]), {})
    assert other.writer.revision == before


async def test_an_epoch_with_a_chunk_missing_is_not_folded() -> None:
    a, _, _ = await two()
    await a.claim(*ALL[:5])
    await a.settle(*ALL[:5])
    assert await a.ledger.fold() == 0
    assert (await a.ledger.states())[0].done == frozenset(range(5))


class UnreliableStore(MemoryStore):
    """Replies get lost, and requests come late or twice, as ``faults`` says for the transactions to come.

    "lost": applied, no reply; "never": not applied, no reply; "late": no reply, applied when the next one comes;
    "again": applied, and once more when the next one comes.
    """

    def __init__(self, server: MemoryEtcd) -> None:
        super().__init__(server)
        self.faults: list[str] = []
        self._late: list[tuple[Sequence[Guard], Sequence[Operation]]] = []

    async def transact(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> TxnResult:
        await self.deliver()
        fault = self.faults.pop(0) if self.faults else ""
        if fault in {"late", "again"}:
            self._late.append((guards, operations))
        if fault in {"late", "never"}:
            raise Ambiguous("no reply")
        result = await super().transact(guards, operations)
        if fault == "lost":
            raise Ambiguous("no reply")
        return result

    async def deliver(self) -> None:
        """What was on the way arrives."""
        late, self._late = self._late, []
        for guards, operations in late:
            await super().transact(guards, operations)


class Flaky(Member):
    """An incarnation whose messages get lost, delayed and doubled."""

    def __init__(self, name: str, server: MemoryEtcd, clock: FakeClock) -> None:
        super().__init__(name, server, clock)
        self.flaky = UnreliableStore(server)
        self.writer = FencedWriter(self.flaky, self.session, JobKeys("j").fence(name), clock)
        self.ledger = Ledger(self.flaky, self.writer, JobKeys("j"), EPOCHS, name)


actions = st.tuples(
    st.sampled_from(["claim", "settle", "release", "leave", "die", "freeze", "fold"]),
    st.integers(0, 2),
    st.sets(st.integers(0, 11), min_size=1, max_size=5),
    st.lists(st.sampled_from(["lost", "never", "late", "again"]), max_size=2),
)


@settings(max_examples=200)
@given(st.lists(actions, max_size=40))
def test_under_any_history_a_chunk_has_one_owner_is_settled_once_and_none_is_lost(
    history: list[tuple[str, int, set[int], list[str]]],
) -> None:
    """Joins, leaves, deaths and freezes, with messages that are lost, late or repeated."""

    async def run() -> None:
        clock = FakeClock(automatic=True)
        server = MemoryEtcd(clock)
        members = [Flaky(name, server, clock) for name in ("a", "b", "c")]
        for member in members:
            await member.begin()
        settled: Counter[ChunkId] = Counter()
        unknown: set[ChunkId] = set()
        stale: list[Flaky] = []

        async def act(action: str, member: Flaky, numbers: set[int]) -> None:
            chunks = [ALL[number] for number in sorted(numbers)]
            ours = [chunk for chunk in chunks if chunk in member.owned]
            match action:
                case "claim":
                    await member.claim(*[chunk for chunk in chunks if chunk not in member.owned])
                case "settle":
                    unknown.update(ours)  # until the reply is here
                    settled.update(await member.settle(*ours))
                    unknown.difference_update(ours)
                case "release" | "leave":
                    handed = ours if action == "release" else list(member.owned)
                    await member.ledger.release({chunk: member.owned[chunk] for chunk in handed})
                    for chunk in handed:
                        del member.owned[chunk]
                case "fold":
                    await member.ledger.fold()

        for action, index, numbers, faults in history:
            member = members[index]
            member.flaky.faults = list(faults)
            try:
                await act(action, member, numbers)
            except StoreUnavailable:
                unknown.clear()  # surely not applied
            except LeaseLost:
                pass
            if action in {"leave", "die", "freeze"}:
                if action == "freeze":
                    server.revoke(member.session.id)  # it does not know
                    stale.append(member)
                else:
                    await member.session.close()
                members[index] = Flaky(member.name, server, clock)
                await members[index].begin()
            for one, other in itertools.combinations(members, 2):
                assert not set(one.owned) & set(other.owned)
        # Those that were frozen wake and write what they think is theirs: nothing of it counts.
        for member in stale:
            with pytest.raises(LeaseLost):
                await member.ledger.settle(
                    [Settlement(chunk, member.owned.get(chunk, 1), "x") for chunk in ALL]
                )
            await member.flaky.deliver()
            await member.session.close()
        for member in members:
            await member.flaky.deliver()
            await member.session.close()

        last = await Member("z", server, clock).begin()
        await last.claim(*[chunk for chunk in ALL if chunk.epoch >= last.ledger.folded])
        settled.update(await last.settle(*last.owned))
        assert all(count == 1 for count in settled.values())
        assert set(ALL) - set(settled) <= unknown
        assert await last.ledger.fold() == EPOCHS.count
        assert await last.ledger.done_samples() == EPOCHS.budget_samples
        await last.session.close()

    asyncio.run(run())


class FoldedMeanwhile(MemoryStore):
    """Another peer folds an epoch between two reads of this one: ``fold`` is called before each of them."""

    fold: Callable[[], Awaitable[object]] | None = None

    async def count(self, prefix: str) -> int:
        await self._fold_once()
        return await super().count(prefix)

    async def keys(self, prefix: str) -> tuple[str, ...]:
        await self._fold_once()
        return await super().keys(prefix)

    async def _fold_once(self) -> None:
        fold, self.fold = self.fold, None
        if fold is not None:
            await fold()


async def test_an_epoch_that_is_folded_between_two_reads_is_neither_missing_nor_counted_twice() -> None:
    clock = FakeClock(automatic=True)
    server = MemoryEtcd(clock)
    first, second = await Member("a", server, clock).begin(), await Member("b", server, clock).begin()
    await first.claim(*ALL[:9])
    await first.settle(*ALL[:9])
    store = FoldedMeanwhile(server)
    ledger = Ledger(store, second.writer, JobKeys("j"), EPOCHS, "b")
    store.fold = first.ledger.fold
    assert await ledger.done_samples() == 90
    assert ledger.folded == 1
    await first.claim(*ALL[9:])
    await first.settle(*ALL[9:])
    store.fold = first.ledger.fold
    assert await ledger.states() == {}
    assert ledger.folded == 2
