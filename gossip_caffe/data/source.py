"""Where records come from: one file a kind of source, all behind one Protocol."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from gossip_caffe.data.datum import Record
from gossip_caffe.data.lmdb_source import LmdbDataSet, LmdbSource
from gossip_caffe.errors import DataError
from gossip_caffe.job.spec import DataSpec


class RecordSource(Protocol):
    """Records by their number in the data set, which is the order in which Caffe would read them."""

    def read(self, start: int, stop: int) -> Iterator[Record]:
        """Yield the records [start, stop), decoded. Raises DataError naming source and key."""
        ...

    def close(self) -> None:
        """Let go of files."""
        ...


def open_data_set(backend: str, path: str) -> LmdbDataSet:
    """Open a data set that a job is being made for. Raises DataError."""
    _check(backend)
    return LmdbDataSet(path)


def open_source(spec: DataSpec) -> RecordSource:
    """Open a job's data, cut as the job says. Raises DataError."""
    _check(spec.backend)
    return LmdbSource(
        spec.source,
        records=spec.records,
        chunk_records=spec.chunk_records,
        chunk_keys=spec.chunk_keys,
    )


def _check(backend: str) -> None:
    if backend != "lmdb":
        raise DataError(f"unknown data source {backend!r}", remedy="use an LMDB")
