"""The ledger: the account of the open epochs in the store, with each chunk's state and owner.

A chunk of an epoch is in one of three states. Only a guarded transaction moves it from one state to the next:

    free ── claim ──▶ claimed ── settle ──▶ settled
      ▲                 │
      └── release, or the owner's lease ends

A claim is a key that is attached to the owner's lease, so it ends with its owner. A settled chunk has a done mark: a
key without a lease. Both are counted by prefix, so the traffic of one peer does not grow with the number of peers.

An epoch is folded when all of its chunks are settled: its done marks are replaced by one count, the number of folded
epochs. Epochs are folded in order: after ``folded`` = n, the epochs 0 … n-1 are folded and all later ones are open.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gossip_caffe.errors import StoreError
from gossip_caffe.membership.etcd.store import (
    Absent,
    CreatedAt,
    Delete,
    DeletePrefix,
    Operation,
    Put,
    Store,
)
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.removal import removed
from gossip_caffe.observe.log.ignored import Note, discard_note
from gossip_caffe.shards.audit import not_settled
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.shards.folded import FoldedRecord

T = TypeVar("T")

CHUNKS_PER_TRANSACTION = 60
"""A chunk needs two guards or two operations, besides the fence and the folded epochs; etcd permits 128 of each."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """Outcome of a claim. Each chunk is in exactly one of the three.

    ``owned``: chunks that this peer now owns → revision of the ownership. ``taken``: chunks that another peer owns.
    ``done``: chunks that are settled.
    """

    owned: Mapping[ChunkId, int]
    taken: frozenset[ChunkId]
    done: frozenset[ChunkId]


@dataclass(frozen=True, slots=True)
class Settlement:
    """A chunk to settle: owned since ``revision``; ``via`` is the id of the exchange or checkpoint that carried it."""

    chunk: ChunkId
    revision: int
    via: str


@dataclass(frozen=True, slots=True)
class EpochState:
    """The chunks of an epoch at one listing: ``owned`` by any peer, and ``done`` (settled)."""

    owned: frozenset[int]
    done: frozenset[int]


class Ledger:
    """The ledger as one peer reads and writes it.

    Methods raise LeaseLost when the peer may no longer write, and StoreUnavailable when the store cannot be reached
    (then nothing was written).
    """

    def __init__(
        self,
        store: Store,
        writer: FencedWriter,
        keys: JobKeys,
        epochs: Epochs,
        peer: str,
        put_right: Note = discard_note,
    ) -> None:
        """``put_right`` is called for each key of another writer that this peer corrected or removed."""
        self._store = store
        self._writer = writer
        self._keys = keys
        self._epochs = epochs
        self._peer = peer
        self._folded = FoldedRecord(store, writer, keys, epochs.count, peer, put_right)
        self._told = put_right

    @property
    def folded(self) -> int:
        """The number of folded epochs, as this peer last read it: epochs 0 … folded-1 are folded."""
        return self._folded.epochs

    def recall(self, before: Ledger) -> None:
        """Take over the knowledge of this peer's earlier ledger.

        Valid while the store kept it and no rollback happened.
        """
        self._folded.recall(before._folded)

    async def refresh(self) -> int:
        """Read the number of folded epochs. A peer that knows the right number corrects a wrong record."""
        return await self._folded.refresh()

    async def claim(self, chunks: Sequence[ChunkId], lease: int) -> Claimed:
        """Try to claim chunks, of any epochs. Each chunk ends up in exactly one of the sets of the result."""
        owned: dict[ChunkId, int] = {}
        taken: set[ChunkId] = set()
        done: set[ChunkId] = set()
        for first in range(0, len(chunks), CHUNKS_PER_TRANSACTION):
            wanted = list(chunks[first : first + CHUNKS_PER_TRANSACTION])
            while wanted:
                done.update(chunk for chunk in wanted if chunk.epoch < self._folded.epochs)
                wanted = [chunk for chunk in wanted if chunk not in done and chunk not in taken]
                if not wanted:
                    break
                guards = self._folded.guards()
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
        """Settle chunks of this peer. Returns (settled chunks, chunks that this peer no longer owns)."""
        settled: list[ChunkId] = []
        lost: list[ChunkId] = []
        for first in range(0, len(settlements), CHUNKS_PER_TRANSACTION):
            part = list(settlements[first : first + CHUNKS_PER_TRANSACTION])
            while part:
                guards = [CreatedAt(self._claim(entry.chunk), entry.revision) for entry in part]
                operations: list[Operation] = []
                for entry in part:
                    mark = {"peer": self._peer, "via": entry.via, "claimed": entry.revision}
                    value = json.dumps(mark, separators=(",", ":")).encode()
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
        """Release claims without settling the chunks. Chunks that this peer no longer owns are left alone."""
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
        """Epoch → its claimed and settled chunks at one revision, for all open epochs that have any.

        One listing, in pages.
        """
        owned, done = self._keys.read_chunks(
            await self._as_of_one_fold(lambda: self._store.keys(self._keys.ledger))
        )
        return {
            epoch: EpochState(
                frozenset(owned.get(epoch, ())) & self._epochs.places(epoch).keys(),
                frozenset(done.get(epoch, ())) & self._epochs.places(epoch).keys(),
            )
            for epoch in sorted({*owned, *done})
            if self._folded.epochs <= epoch < self._epochs.count
        }

    async def done_samples(self) -> int:
        """The number of settled samples of the whole job. The cost is the same for any number of chunks.

        It is an estimate within the open epochs: their settled chunks are counted and taken to be of average size.
        """
        marks = await self._as_of_one_fold(lambda: self._store.count(self._keys.done_marks))
        opened = round(marks * self._epochs.records / self._epochs.chunks)
        return min(self._epochs.samples_before(self._folded.epochs) + opened, self._epochs.budget_samples)

    async def _as_of_one_fold(self, read: Callable[[], Awaitable[T]]) -> T:
        """The result of a read during which the number of folded epochs did not change.

        Folding deletes an epoch's marks. If it happened between the two reads, a whole epoch would be counted twice or
        not at all.
        """
        while True:
            before = self._folded.version
            found = await read()
            await self.refresh()
            if self._folded.version == before:
                return found

    async def fold(self) -> int:
        """Fold the oldest open epoch, and again while the next is settled, too. Returns the number of folded epochs."""
        await self.refresh()
        while self._folded.epochs < self._epochs.count:
            epoch = self._folded.epochs
            if await self._store.count(self._keys.done(epoch)) < len(self._epochs.order(epoch)):
                break
            if not await self._is_whole(epoch):
                break
            await self._writer.transact(
                self._folded.guards(),
                [
                    *self._folded.writes(epoch + 1),
                    DeletePrefix(self._keys.done(epoch)),
                    DeletePrefix(self._keys.claims(epoch)),  # left by other writers: every chunk is settled
                ],
            )
            await self.refresh()
        return self._folded.epochs

    async def _is_whole(self, epoch: int) -> bool:
        """True if the owner of every chunk of the epoch has settled it. Marks that no peer wrote are removed."""
        places, done = self._epochs.places(epoch), set()
        wrong: dict[str, str] = {}
        strange = []
        for item in (await self._store.list(self._keys.done(epoch))).items:
            read = self._keys.read_ledger(item.key)
            why = "the job has no such chunk" if read is None or read[2] not in places else not_settled(item)
            if why:
                strange.append(item)
                wrong[item.key] = why
            elif read is not None:
                done.add(read[2])
        for item in await removed(self._writer, strange):
            self._told(item.key, item.mod_revision, wrong[item.key])
        return len(done) == len(places)

    def _claim(self, chunk: ChunkId) -> str:
        return self._keys.claim(chunk.epoch, chunk.chunk)

    def _done(self, chunk: ChunkId) -> str:
        return self._keys.done_mark(chunk.epoch, chunk.chunk)
