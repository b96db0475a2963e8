"""The size of a chunk: large enough that the ledger in etcd stays small, small enough to balance the load."""

from __future__ import annotations

TARGET_CHUNKS = 400
MOST_OF_JOB = 100_000
"""Limit of the chunks of a whole job.

Many epochs of a small data set would else claim and settle many chunks a second.
"""
LEAST_CHUNKS = 16
"""The wanted number of chunks of an epoch, if it has that many iterations: several peers can share them evenly."""


def choose_chunk_records(records: int, batch_records: int, iter_size: int, budget_samples: int) -> int:
    """The records of a chunk: a multiple of one solver's iteration, such that an epoch has about 400 chunks.

    For a data set smaller than 400 iterations a chunk is one iteration. It is more iterations where the job would have
    more than 100,000 chunks: a chunk is then about one 100,000th of the job. A fast job so has larger chunks, and the
    training that a kill repeats stays the same small part of the job.
    """
    iteration = batch_records * iter_size
    iterations = max(1, round(records / iteration / TARGET_CHUNKS))
    few_enough = -(-budget_samples // (iteration * MOST_OF_JOB))
    enough = records // (iteration * LEAST_CHUNKS)
    return iteration * max(iterations, min(few_enough, enough))
