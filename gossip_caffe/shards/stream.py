"""From claimed chunks to batches, and from trained batches back to finished chunks: the account inside one peer.

Records flow in the order of the claims; a batch may span chunks and epochs, so no record is padded or repeated. Only
a flush cuts a batch short. Every batch is remembered until its gradient has left the peer for good, because a solver
that dies is fed again from its last snapshot on.
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
        """How many records it spans."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch as it is fed to the solver. ``finishes``: the chunks whose last record it holds."""

    sequence: int
    parts: tuple[Part, ...]
    finishes: tuple[ChunkId, ...]

    @property
    def records(self) -> int:
        """How many records it holds; less than the net's batch size only after a flush."""
        return sum(part.records for part in self.parts)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is left to cut of a claimed chunk; ``begun`` once a batch holds records of it."""

    chunk: ChunkId
    start: int
    stop: int
    begun: bool = False


class RecordStream:
    """The batches of one peer, numbered from 0: cut, trained (in a snapshot), durable (learned by others too)."""

    def __init__(self, batch_records: int) -> None:
        self._batch_records = batch_records
        self._waiting: deque[_Piece] = deque()
        self._waiting_records = 0
        self._batches: deque[Batch] = deque()
        self._next = 0
        self._trained = 0

    @property
    def next_sequence(self) -> int:
        """Number of the batch that will be cut next."""
        return self._next

    @property
    def waiting_records(self) -> int:
        """Records claimed and not yet cut into a batch."""
        return self._waiting_records

    @property
    def unsettled(self) -> bool:
        """True while a claimed record has not become durable."""
        return bool(self._waiting or self._batches)

    @property
    def untrained(self) -> bool:
        """True while a claimed record has not been trained."""
        return bool(self._waiting) or self._trained < self._next

    def add(self, chunk: ChunkId, start: int, stop: int) -> None:
        """Append the records [start, stop) of a chunk that this peer claimed."""
        self._waiting.append(_Piece(chunk, start, stop))
        self._waiting_records += stop - start

    def cut(self, *, flush: bool = False) -> Batch | None:
        """The next whole batch, or with ``flush`` whatever is there; None when there is not enough."""
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
        batch = Batch(self._next, tuple(parts), tuple(finishes))
        self._waiting_records -= batch.records
        self._next += 1
        self._batches.append(batch)
        return batch

    def trained(self, batches: int) -> list[Batch]:
        """Batches newly trained, when the solver says that it has trained the first ``batches``."""
        new = [batch for batch in self._batches if self._trained <= batch.sequence < batches]
        self._trained = max(self._trained, batches)
        return new

    def retrain(self, batches: int) -> list[Batch]:
        """The solver died and goes on from a snapshot with the first ``batches``: what must be fed again, in order."""
        self._trained = min(self._trained, batches)
        return self.from_sequence(batches)

    def from_sequence(self, sequence: int) -> list[Batch]:
        """The batches cut so far from number ``sequence`` on."""
        return [batch for batch in self._batches if batch.sequence >= sequence]

    def durable(self, batches: int) -> list[ChunkId]:
        """Chunks newly finished, when the gradient of the first ``batches`` batches has left the peer."""
        finished: list[ChunkId] = []
        while self._batches and self._batches[0].sequence < batches:
            finished.extend(self._batches.popleft().finishes)
        return finished

    def hand_back(self) -> list[ChunkId]:
        """Take back the chunks of which no batch holds a record: a leaving peer releases them."""
        return self._take_out(piece for piece in self._waiting if not piece.begun)

    def withdraw(self, chunks: Container[ChunkId]) -> list[ChunkId]:
        """Take back those of ``chunks`` of which no batch holds a record: they are somebody else's."""
        return self._take_out(piece for piece in self._waiting if not piece.begun and piece.chunk in chunks)

    def _take_out(self, pieces: Iterable[_Piece]) -> list[ChunkId]:
        out = list(pieces)
        self._waiting = deque(piece for piece in self._waiting if piece not in out)
        self._waiting_records -= sum(piece.stop - piece.start for piece in out)
        return [piece.chunk for piece in out]


def records_of(parts: Iterable[Part]) -> list[list[int]]:
    """Parts as the event log and the loader's messages carry them: [[epoch, start, stop], …]."""
    return [[part.epoch, part.start, part.stop] for part in parts]
