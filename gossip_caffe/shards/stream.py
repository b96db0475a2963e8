"""From claimed chunks to batches, and from trained batches to settled chunks: the account inside one peer.

Records are used in the order of the claims. A batch may span chunks and epochs, so no record is padded or repeated.
Only a flush makes a batch shorter. Every batch is kept until its gradient has left the peer durably: after the death
of a solver, all batches since its last snapshot are fed again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable
from dataclasses import dataclass

from gossip_caffe.shards.epochs import ChunkId


@dataclass(frozen=True, slots=True)
class Part:
    """Records [start, stop) of one epoch."""

    epoch: int
    start: int
    stop: int

    @property
    def records(self) -> int:
        """The number of records in the part."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class ChunkBatch:
    """One batch as it is fed to the solver. ``finishes``: the chunks whose last record is in this batch."""

    sequence: int
    parts: tuple[Part, ...]
    finishes: tuple[ChunkId, ...]

    @property
    def records(self) -> int:
        """The number of records in the batch. Below the net's batch size only after a flush."""
        return sum(part.records for part in self.parts)


@dataclass(frozen=True, slots=True)
class _Piece:
    """The rest of a claimed chunk that is not in a batch yet. ``begun``: a batch holds some of its records."""

    chunk: ChunkId
    start: int
    stop: int
    begun: bool = False


class RecordStream:
    """The batches of one peer, numbered from 0.

    A batch is cut, then trained (in a snapshot), then durable (left the peer).
    """

    def __init__(self, batch_records: int) -> None:
        self._batch_records = batch_records
        self._waiting: deque[_Piece] = deque()
        self._waiting_records = 0
        self._batches: deque[ChunkBatch] = deque()
        self._next = 0
        self._trained = 0

    @property
    def next_sequence(self) -> int:
        """The number of the next batch to be cut."""
        return self._next

    @property
    def waiting_records(self) -> int:
        """The number of claimed records that are not in a batch yet."""
        return self._waiting_records

    @property
    def unsettled(self) -> bool:
        """True while a claimed record has not become durable."""
        return bool(self._waiting or self._batches)

    @property
    def untrained(self) -> bool:
        """True while a claimed record has not been trained."""
        return bool(self._waiting) or self._trained < self._next

    @property
    def first_unsettled(self) -> int:
        """The number of the first batch whose gradient has not left the peer durably."""
        return self._batches[0].sequence if self._batches else self._next

    def add(self, chunk: ChunkId, start: int, stop: int) -> None:
        """Append the records [start, stop) of a chunk that this peer claimed."""
        self._waiting.append(_Piece(chunk, start, stop))
        self._waiting_records += stop - start

    def cut(self, *, flush: bool = False) -> ChunkBatch | None:
        """Cut the next whole batch; with ``flush`` also a shorter one.

        Returns None when there are not enough records.
        """
        if self._waiting_records < (1 if flush else self._batch_records):
            return None
        parts: list[Part] = []
        finishes: list[ChunkId] = []
        missing = self._batch_records
        while missing and self._waiting:
            piece = self._waiting.popleft()
            cut = min(piece.stop, piece.start + missing)
            parts.append(Part(piece.chunk.epoch, piece.start, cut))
            missing -= cut - piece.start
            if cut < piece.stop:
                self._waiting.appendleft(_Piece(piece.chunk, cut, piece.stop, begun=True))
            else:
                finishes.append(piece.chunk)
        batch = ChunkBatch(self._next, tuple(parts), tuple(finishes))
        self._waiting_records -= batch.records
        self._next += 1
        self._batches.append(batch)
        return batch

    def trained(self, batches: int) -> list[ChunkBatch]:
        """Record that the solver has trained the first ``batches`` batches; returns those that are newly trained."""
        new = [batch for batch in self._batches if self._trained <= batch.sequence < batches]
        self._trained = max(self._trained, batches)
        return new

    def retrain(self, batches: int) -> list[ChunkBatch]:
        """Record that the solver restarts from a snapshot with the first ``batches`` batches.

        Returns the batches to feed again.
        """
        self._trained = min(self._trained, batches)
        return self.from_sequence(batches)

    def from_sequence(self, sequence: int) -> list[ChunkBatch]:
        """The batches cut so far whose number is at least ``sequence``."""
        return [batch for batch in self._batches if batch.sequence >= sequence]

    def durable(self, batches: int) -> list[ChunkId]:
        """Record that the gradient of the first ``batches`` batches has left the peer.

        Returns the chunks whose last record is in one of these batches, and was not reported before.
        """
        finished: list[ChunkId] = []
        while self._batches and self._batches[0].sequence < batches:
            finished.extend(self._batches.popleft().finishes)
        return finished

    def take_unbegun(self) -> list[ChunkId]:
        """Remove the chunks of which no batch holds a record. A leaving peer releases them."""
        return self._take_out(piece for piece in self._waiting if not piece.begun)

    def withdraw(self, chunks: Container[ChunkId]) -> list[ChunkId]:
        """Remove those of ``chunks`` of which no batch holds a record: they belong to another peer."""
        return self._take_out(piece for piece in self._waiting if not piece.begun and piece.chunk in chunks)

    def give_up_untrained(self) -> None:
        """Remove all records that no solver has trained, because none will: their chunks stay unsettled."""
        self._waiting.clear()
        self._waiting_records = 0
        while self._batches and self._batches[-1].sequence >= self._trained:
            self._batches.pop()
        self._next = self._trained

    def _take_out(self, pieces: Iterable[_Piece]) -> list[ChunkId]:
        out = list(pieces)
        self._waiting = deque(piece for piece in self._waiting if piece not in out)
        self._waiting_records -= sum(piece.stop - piece.start for piece in out)
        return [piece.chunk for piece in out]


def records_of(parts: Iterable[Part]) -> list[list[int]]:
    """Parts in the form of the event log and of the loader's messages: [[epoch, start, stop], …]."""
    return [[part.epoch, part.start, part.stop] for part in parts]
