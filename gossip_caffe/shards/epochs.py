"""The geometry of a job's work: which chunks exist, and which records of them belong to each epoch of the budget.

Everything here is a pure function of the job's spec, so every peer cuts alike without talking.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gossip_caffe.job.spec import JobSpec


@dataclass(frozen=True, slots=True)
class ChunkId:
    """One chunk of one epoch: the unit that is claimed, trained and accounted."""

    epoch: int
    chunk: int


@dataclass(frozen=True)
class Epochs:
    """The budget, laid out over the data set: whole epochs, and a last one that ends where the budget does.

    ``records`` and ``chunk_records`` are of the data set, ``budget_samples`` of the job; epochs and chunks count
    from 0.
    """

    records: int
    chunk_records: int
    budget_samples: int
    seed: int
    shuffle: bool = True

    @classmethod
    def of(cls, spec: JobSpec) -> Epochs:
        """The geometry of a job."""
        return cls(
            records=spec.data.records,
            chunk_records=spec.data.chunk_records,
            budget_samples=spec.budget_samples,
            seed=spec.settings.seed,
            shuffle=spec.settings.shuffle,
        )

    @property
    def chunks(self) -> int:
        """How many chunks the data set has; the last one may be short."""
        return -(-self.records // self.chunk_records)

    @property
    def count(self) -> int:
        """How many epochs the budget touches; the last one may be partial."""
        return -(-self.budget_samples // self.records)

    def samples_before(self, epoch: int) -> int:
        """Samples of the budget in all epochs before ``epoch``."""
        return min(epoch * self.records, self.budget_samples)

    def samples_in(self, epoch: int) -> int:
        """Samples of the budget that epoch ``epoch`` holds."""
        return self.samples_before(epoch + 1) - self.samples_before(epoch)

    def samples_of(self, folded: int, done: Iterable[ChunkId]) -> int:
        """Samples of the budget in the epochs before ``folded`` and in chunks of later ones."""
        return self.samples_before(folded) + sum(stop - start for start, stop in map(self.extent, done))

    def order(self, epoch: int) -> tuple[int, ...]:
        """The chunks of an epoch that the budget reaches, in the order in which they are to be trained."""
        return _order(self, epoch)

    def in_order(self, epoch: int, chunks: Iterable[int]) -> list[int]:
        """Some chunks, those that the budget reaches, in the order in which they are to be trained."""
        places = self.places(epoch)
        return sorted((chunk for chunk in chunks if chunk in places), key=places.__getitem__)

    def places(self, epoch: int) -> Mapping[int, int]:
        """Chunk → its place in the order in which an epoch is trained, from 0, of those that the budget reaches."""
        return _places(self, epoch)

    def extent(self, chunk: ChunkId) -> tuple[int, int]:
        """First and one-past-last record of a chunk; the budget's very last chunk is cut to fit it."""
        start = chunk.chunk * self.chunk_records
        stop = min(start + self.chunk_records, self.records)
        if chunk.epoch == self.count - 1 and chunk.chunk == self.order(chunk.epoch)[-1]:
            others = sum(self._whole(other) for other in self.order(chunk.epoch)[:-1])
            stop = start + self.samples_in(chunk.epoch) - others
        return start, stop

    def _whole(self, chunk: int) -> int:
        return min(self.chunk_records, self.records - chunk * self.chunk_records)


@functools.lru_cache(maxsize=1024)
def _order(epochs: Epochs, epoch: int) -> tuple[int, ...]:
    """Chunks by a keyed digest (not by a library's shuffle: every version of Python must order them alike)."""
    chunks = list(range(epochs.chunks))
    if epochs.shuffle:
        key = f"{epochs.seed}:{epoch}".encode()
        chunks.sort(key=lambda chunk: hashlib.blake2b(b"%d" % chunk, key=key, digest_size=8).digest())
    reached, samples = [], 0
    for chunk in chunks:
        if samples >= epochs.samples_in(epoch):
            break
        reached.append(chunk)
        samples += min(epochs.chunk_records, epochs.records - chunk * epochs.chunk_records)
    return tuple(reached)


@functools.lru_cache(maxsize=16)
def _places(epochs: Epochs, epoch: int) -> Mapping[int, int]:
    return {chunk: place for place, chunk in enumerate(epochs.order(epoch))}


def by_epoch(chunks: Iterable[ChunkId]) -> dict[int, list[int]]:
    """The numbers of chunks, ascending, under their epochs."""
    numbers: dict[int, list[int]] = {}
    for chunk in chunks:
        numbers.setdefault(chunk.epoch, []).append(chunk.chunk)
    return {epoch: sorted(numbers[epoch]) for epoch in sorted(numbers)}
