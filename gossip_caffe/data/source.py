"""Where records come from: one file a kind of source, all behind one Protocol."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from gossip_caffe.data.datum import Record
from gossip_caffe.data.lmdb_source import LmdbSource
from gossip_caffe.errors import DataError
from gossip_caffe.job.spec import DataSpec


class RecordSource(Protocol):
    """Records by their number in the data set, which is the order in which Caffe would read them."""

    def read(self, start: int, stop: int) -> Iterator[Record]:
        """The records [start, stop), decoded. Raises DataError naming source and key."""
        ...

    def close(self) -> None:
        """Let go of files."""
        ...


def open_source(spec: DataSpec) -> RecordSource:
    """The source of a job's data, cut as the job says. Raises DataError."""
    if spec.backend != "lmdb":
        raise DataError(f"unknown data source {spec.backend!r}", remedy="use an LMDB")
    return LmdbSource(spec.source, chunk_records=spec.chunk_records, chunk_keys=spec.chunk_keys)
