"""The account of the open epochs in the store: which chunks are owned, by whom, and which are done.

A chunk of an epoch is in one of three states, and a guarded transaction is the only way from one to the next:

    free ── claim ──▶ owned ── settle ──▶ done
      ▲                 │
      └── release, or the owner's lease ends

Owned is a key on the owner's lease, so it dies with its owner; done is a key without a lease. Both are counted by
prefix, so what one peer reads and writes does not grow with the number of peers. Epochs whose every chunk is done are
folded, in order, into one key.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gossip_caffe.errors import StoreError
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.store import (
    Absent,
    CreatedAt,
    Delete,
    DeletePrefix,
    Guard,
    KeyValue,
    ModifiedAt,
    Operation,
    Put,
    Store,
)
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.stored import needed

T = TypeVar("T")

CHUNKS_PER_TRANSACTION = 32
"""Two guards and two operations a chunk, beside the fence: well within etcd's 128 a transaction."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """Outcome of a claim: what is ours now (chunk → revision of ownership), and what was not to be had."""

    owned: Mapping[ChunkId, int]
    taken: frozenset[ChunkId]
    done: frozenset[ChunkId]


@dataclass(frozen=True, slots=True)
class Settlement:
    """A chunk to be called done: owned since ``revision``; ``via`` is the exchange or checkpoint that carried it."""

    chunk: ChunkId
    revision: int
    via: str


@dataclass(frozen=True, slots=True)
class EpochState:
    """An epoch as it was listed: chunks owned by anyone, and chunks done."""

    owned: frozenset[int]
    done: frozenset[int]


class Ledger:
    """One peer's hand on the account.

    Raises LeaseLost when the peer may not write any more, StoreUnavailable when the store cannot be reached (nothing
    was written then).
    """

    def __init__(self, store: Store, writer: FencedWriter, keys: JobKeys, epochs: Epochs, peer: str) -> None:
        self._store = store
        self._writer = writer
        self._keys = keys
        self._epochs = epochs
        self._peer = peer
        self._folded_epochs = 0
        self._folded_revision = 0

    @property
    def folded(self) -> int:
        """Epochs 0 … folded-1 are finished, as far as this peer has read."""
        return self._folded_epochs

    async def refresh(self) -> int:
        """Read how many epochs are folded."""
        self._note_folded(await self._store.get(self._keys.folded))
        return self._folded_epochs

    async def claim(self, chunks: Sequence[ChunkId], lease: int) -> Claimed:
        """Try to own chunks, of any epochs: each ends up in exactly one of the sets of the result."""
        owned: dict[ChunkId, int] = {}
        taken: set[ChunkId] = set()
        done: set[ChunkId] = set()
        for first in range(0, len(chunks), CHUNKS_PER_TRANSACTION):
            wanted = list(chunks[first : first + CHUNKS_PER_TRANSACTION])
            while wanted:
                done.update(chunk for chunk in wanted if chunk.epoch < self._folded_epochs)
                wanted = [chunk for chunk in wanted if chunk not in done and chunk not in taken]
                guards: list[Guard] = [self._folded_guard()]
                guards += [Absent(key) for chunk in wanted for key in (self._claim(chunk), self._done(chunk))]
                puts = [Put(self._claim(chunk), self._peer.encode(), lease) for chunk in wanted]
                result = await self._writer.transact(guards, puts)
                if result.succeeded:
                    owned.update(dict.fromkeys(wanted, result.revision))
                    break
                found = {item.key for item in result.found}
                done.update(chunk for chunk in wanted if self._done(chunk) in found)
                taken.update(chunk for chunk in wanted if self._claim(chunk) in found)
                await self.refresh()
        return Claimed(owned, frozenset(taken - done), frozenset(done))

    async def settle(self, settlements: Sequence[Settlement]) -> tuple[list[ChunkId], list[ChunkId]]:
        """Mark chunks done that are ours; returns (done, lost to somebody else)."""
        settled: list[ChunkId] = []
        lost: list[ChunkId] = []
        for first in range(0, len(settlements), CHUNKS_PER_TRANSACTION):
            part = list(settlements[first : first + CHUNKS_PER_TRANSACTION])
            while part:
                guards = [CreatedAt(self._claim(entry.chunk), entry.revision) for entry in part]
                operations: list[Operation] = []
                for entry in part:
                    value = json.dumps({"peer": self._peer, "via": entry.via}).encode()
                    operations += [Put(self._done(entry.chunk), value), Delete(self._claim(entry.chunk))]
                result = await self._writer.transact(guards, operations)
                if result.succeeded:
                    settled += [entry.chunk for entry in part]
                    break
                ours = {item.key: item.create_revision for item in result.found}
                gone = [entry for entry in part if ours.get(self._claim(entry.chunk)) != entry.revision]
                if not gone:
                    raise StoreError(f"the store refused to settle {len(part)} chunks although they are ours")
                lost += [entry.chunk for entry in gone]
                part = [entry for entry in part if entry not in gone]
        return settled, lost

    async def release(self, owned: Mapping[ChunkId, int]) -> None:
        """Hand chunks back untrained; those that are no longer ours are left alone."""
        pending = list(owned)
        while pending:
            part = pending[:CHUNKS_PER_TRANSACTION]
            guards = [CreatedAt(self._claim(chunk), owned[chunk]) for chunk in part]
            result = await self._writer.transact(guards, [Delete(self._claim(chunk)) for chunk in part])
            if result.succeeded:
                pending = pending[CHUNKS_PER_TRANSACTION:]
                continue
            ours = {item.key: item.create_revision for item in result.found}
            pending = [
                chunk
                for chunk in pending
                if chunk not in part or ours.get(self._claim(chunk)) == owned[chunk]
            ]

    async def states(self) -> dict[int, EpochState]:
        """All open epochs of which a chunk is owned or done, as they are at one revision: one listing, in pages."""
        owned, done = self._keys.read_chunks(
            await self._as_of_one_fold(lambda: self._store.keys(self._keys.ledger))
        )
        return {
            epoch: EpochState(frozenset(owned.get(epoch, ())), frozenset(done.get(epoch, ())))
            for epoch in sorted({*owned, *done})
            if epoch >= self._folded_epochs
        }

    async def done_samples(self) -> int:
        """Samples of the whole job that are done; costs the same for any number of chunks.

        Chunks of the open epochs are counted, and a chunk is taken to be of average size.
        """
        marks = await self._as_of_one_fold(lambda: self._store.count(self._keys.done_marks))
        opened = round(marks * self._epochs.records / self._epochs.chunks)
        return min(self._epochs.samples_before(self._folded_epochs) + opened, self._epochs.budget_samples)

    async def _as_of_one_fold(self, read: Callable[[], Awaitable[T]]) -> T:
        """What was read while just as many epochs were folded as are known now.

        Folding takes an epoch's marks away: read before it and counted after it, a whole epoch would be twice there, or
        not at all.
        """
        while True:
            before = self._folded_epochs, self._folded_revision
            found = await read()
            await self.refresh()
            if (self._folded_epochs, self._folded_revision) == before:
                return found

    async def fold(self) -> int:
        """Fold the oldest open epoch as often as it is whole; returns how many epochs are folded now."""
        await self.refresh()
        while self._folded_epochs < self._epochs.count:
            epoch = self._folded_epochs
            if await self._store.count(self._keys.done(epoch)) < len(self._epochs.order(epoch)):
                break
            value = json.dumps({"epochs": epoch + 1}).encode()
            await self._writer.transact(
                [self._folded_guard()],
                [Put(self._keys.folded, value), DeletePrefix(self._keys.done(epoch))],
            )
            await self.refresh()
        return self._folded_epochs

    def _claim(self, chunk: ChunkId) -> str:
        return self._keys.claim(chunk.epoch, chunk.chunk)

    def _done(self, chunk: ChunkId) -> str:
        return self._keys.done_mark(chunk.epoch, chunk.chunk)

    def _folded_guard(self) -> Guard:
        """Refuses a write that assumes an epoch open which another peer has folded meanwhile."""
        if self._folded_revision:
            return ModifiedAt(self._keys.folded, self._folded_revision)
        return Absent(self._keys.folded)

    def _note_folded(self, item: KeyValue | None) -> None:
        if item is None:
            self._folded_epochs, self._folded_revision = 0, 0
        else:
            self._folded_epochs = needed(self._keys.folded, item.value, "epochs", int)
            self._folded_revision = item.mod_revision
