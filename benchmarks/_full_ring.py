"""Batches that are always there, for benchmarks of what a solver does with them: made-up ones, again and again."""

from __future__ import annotations

import numpy as np

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.job.spec.spec import JobSpec

RING_SLOTS = 4


def full_ring(job: JobSpec) -> BatchRing:
    """A ring of a job's batches, all of them filled."""
    ring = BatchRing.create(job.data.tops, job.data.batch_records, RING_SLOTS)
    rng = np.random.default_rng(1)
    for sequence in range(RING_SLOTS):
        for array in ring.reserve(0.0) or ():
            array[...] = rng.random(array.shape) if array.ndim > 1 else rng.integers(0, 10, array.shape)
        ring.commit(sequence, ring.batch_records)
    return ring


def refill(ring: BatchRing) -> None:
    """The batch that was trained, once more."""
    ring.reserve(0.0)
    ring.commit(ring.head, ring.batch_records)
