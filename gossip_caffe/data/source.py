"""Where records come from: one file a kind of source, all behind two Protocols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.lmdb_source import LmdbDataSet, LmdbSource
from gossip_caffe.errors import DataError
from gossip_caffe.job.sources import DataSet
from gossip_caffe.job.spec import SourceSpec


class RecordSource(Protocol):
    """Records by their number in the data set, which is the order in which Caffe would read them."""

    def fill(self, epoch: int, start: int, stop: int, out: Sequence[NDArray[np.float32]]) -> None:
        """Write the records [start, stop) of an epoch, transformed: one array a top, shape (stop - start, *top.shape).

        Raises DataError naming source and key.
        """
        ...

    def close(self) -> None:
        """Let go of files."""
        ...


def measure(spec: SourceSpec) -> DataSet:
    """Look at the data of a job that is being made. Raises DataError."""
    match spec.kind:
        case "lmdb":
            return LmdbDataSet(spec)
        case _:
            raise _unknown(spec)


def open_source(spec: SourceSpec, chunk_records: int, seed: int) -> RecordSource:
    """Open a source of a job, cut as the job says; ``seed`` is the job's. Raises DataError."""
    match spec.kind:
        case "lmdb":
            return LmdbSource(spec, chunk_records, seed)
        case _:
            raise _unknown(spec)


def _unknown(spec: SourceSpec) -> DataError:
    return DataError(f"data of the kind {spec.kind!r} is not supported yet", remedy="convert it to an LMDB")
