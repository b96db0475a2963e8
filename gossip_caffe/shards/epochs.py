"""The chunks of a job: which chunks exist, and which records belong to each epoch of the budget.

Everything here is a pure function of the job's spec, so all peers compute the same chunks without communication.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from gossip_caffe.job.spec.spec import JobSpec


@dataclass(frozen=True, slots=True)
class ChunkId:
    """One chunk of one epoch: the unit that is claimed, trained and settled."""

    epoch: int
    chunk: int


@dataclass(frozen=True)
class Epochs:
    """The budget in epochs: whole epochs, and a last one that ends where the budget ends.

    ``records``: records of the data set. ``chunk_records``: records of a chunk. ``budget_samples``: samples of the
    job. Epochs and chunks are counted from 0.
    """

    records: int
    chunk_records: int
    budget_samples: int
    seed: int
    shuffle: bool = True

    @classmethod
    def of(cls, spec: JobSpec) -> Epochs:
        """The epochs and chunks of a job."""
        return cls(
            records=spec.data.records,
            chunk_records=spec.data.chunk_records,
            budget_samples=spec.budget_samples,
            seed=spec.settings.seed,
            shuffle=spec.settings.shuffle,
        )

    @property
    def chunks(self) -> int:
        """The number of chunks of the data set. The last chunk may be shorter."""
        return -(-self.records // self.chunk_records)

    @property
    def count(self) -> int:
        """The number of epochs that the budget begins. The last epoch may be partial."""
        return -(-self.budget_samples // self.records)

    def samples_before(self, epoch: int) -> int:
        """Samples in all epochs before ``epoch``, within the budget."""
        return min(epoch * self.records, self.budget_samples)

    def samples_in(self, epoch: int) -> int:
        """Samples in ``epoch``, within the budget."""
        return self.samples_before(epoch + 1) - self.samples_before(epoch)

    def samples_of(self, folded: int, done: Iterable[ChunkId]) -> int:
        """Samples in the epochs before ``folded`` and in the given chunks of later epochs, within the budget."""
        return self.samples_before(folded) + sum(stop - start for start, stop in map(self.extent, done))

    def order(self, epoch: int) -> tuple[int, ...]:
        """The chunks of an epoch that lie within the budget, in the order of training."""
        return _order(self, epoch)

    def in_order(self, epoch: int, chunks: Iterable[int]) -> list[int]:
        """Those of ``chunks`` that lie within the budget, in the order of training."""
        places = self.places(epoch)
        return sorted((chunk for chunk in chunks if chunk in places), key=places.__getitem__)

    def places(self, epoch: int) -> Mapping[int, int]:
        """Chunk → its position in the epoch's order of training, from 0. Only chunks within the budget."""
        return _places(self, epoch)

    def extent(self, chunk: ChunkId) -> tuple[int, int]:
        """The first record of a chunk and the one past its last.

        The last chunk of the budget ends where the budget ends.
        """
        start = chunk.chunk * self.chunk_records
        stop = min(start + self.chunk_records, self.records)
        if chunk.epoch == self.count - 1 and chunk.chunk == self.order(chunk.epoch)[-1]:
            others = sum(self._whole(other) for other in self.order(chunk.epoch)[:-1])
            stop = start + self.samples_in(chunk.epoch) - others
        return start, stop

    def records_of(self, chunks: Collection[int]) -> int:
        """The records in these chunks of the data set; the last chunk of all may be shorter than the others."""
        last = self.chunks - 1
        shorter = self.chunk_records - self._whole(last) if last in chunks else 0
        return len(chunks) * self.chunk_records - shorter

    def _whole(self, chunk: int) -> int:
        return min(self.chunk_records, self.records - chunk * self.chunk_records)


@functools.lru_cache(maxsize=1024)
def _order(epochs: Epochs, epoch: int) -> tuple[int, ...]:
    """Chunks sorted by a keyed digest.

    A library's shuffle does not serve: every version of Python must give one order.
    """
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
    """Epoch → the numbers of its chunks, ascending."""
    numbers: dict[int, list[int]] = {}
    for chunk in chunks:
        numbers.setdefault(chunk.epoch, []).append(chunk.chunk)
    return {epoch: sorted(numbers[epoch]) for epoch in sorted(numbers)}
