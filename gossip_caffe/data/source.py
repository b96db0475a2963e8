"""Where records come from: one file a kind of source, all behind two Protocols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.dataset_source import DatasetSource, UsersDataSet
from gossip_caffe.data.hdf5_source import Hdf5DataSet, Hdf5Source
from gossip_caffe.data.image_source import ImageDataSet, ImageSource
from gossip_caffe.data.leveldb_source import LevelDbDataSet, LevelDbSource
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


_KINDS: dict[str, tuple[Callable[[SourceSpec], DataSet], Callable[[SourceSpec, int, int], RecordSource]]] = {
    "lmdb": (LmdbDataSet, LmdbSource),
    "leveldb": (LevelDbDataSet, LevelDbSource),
    "hdf5": (Hdf5DataSet, Hdf5Source),
    "images": (ImageDataSet, ImageSource),
    "dataset": (UsersDataSet, DatasetSource),
}


def measure(spec: SourceSpec) -> DataSet:
    """Look at the data of a job that is being made. Raises DataError."""
    look, _ = _kind(spec)
    return look(spec)


def open_source(spec: SourceSpec, chunk_records: int, seed: int) -> RecordSource:
    """Open a source of a job, cut as the job says; ``seed`` is the job's. Raises DataError."""
    _, open_ = _kind(spec)
    return open_(spec, chunk_records, seed)


def _kind(
    spec: SourceSpec,
) -> tuple[Callable[[SourceSpec], DataSet], Callable[[SourceSpec, int, int], RecordSource]]:
    if spec.kind not in _KINDS:
        raise DataError(f"data of the kind {spec.kind!r} is not supported", remedy=f"use {', '.join(_KINDS)}")
    return _KINDS[spec.kind]
