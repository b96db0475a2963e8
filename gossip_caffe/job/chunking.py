"""How a data set is cut: big enough that the account in etcd stays small, small enough to share out."""

from __future__ import annotations

TARGET_CHUNKS = 400


def choose_chunk_records(records: int, batch_records: int, iter_size: int) -> int:
    """Choose the records of a chunk: whole iterations of one solver, so that there are about 400 chunks.

    Of a data set smaller than 400 iterations it is one iteration.
    """
    iteration = batch_records * iter_size
    return iteration * max(1, round(records / iteration / TARGET_CHUNKS))
