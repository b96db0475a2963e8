"""The kinds of sources of records, one file for each, all behind two Protocols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.errors import DataError
from gossip_caffe.job.spec.spec import ANNOTATED, SOURCE_KINDS, SourceSpec

if TYPE_CHECKING:  # a loader reads no prototxt
    from gossip_caffe.job.prototxts.sources import DataSet

    _Look = Callable[[SourceSpec], DataSet]


class RecordSource(Protocol):
    """A data set whose records are read by number. The numbers follow the order in which Caffe reads them."""

    def fill(self, epoch: int, start: int, stop: int, out: Sequence[NDArray[np.float32]]) -> None:
        """Write the records [start, stop) of an epoch to ``out``, transformed.

        ``out``: one array for each top, shape (stop - start, *top.shape), float32. Raises DataError, naming source and
        key.
        """
        ...

    def where(self, index: int) -> str:
        """Return a record's name for messages: the source, and key, line or number. Raises DataError."""
        ...

    def close(self) -> None:
        """Close the files."""
        ...


_Open = Callable[[SourceSpec, int, int], RecordSource]


def measure(spec: SourceSpec) -> DataSet:
    """Read the facts about the data that a new job needs. Raises DataError when the data does not fit its layer."""
    look, _ = _kind(spec)
    return look(spec)


def open_source(spec: SourceSpec, chunk_records: int, seed: int) -> RecordSource:
    """Open a source of a job. ``chunk_records``, ``seed``: the job's. Raises DataError."""
    _, open_ = _kind(spec)
    return open_(spec, chunk_records, seed)


def _kind(spec: SourceSpec) -> tuple[_Look, _Open]:
    """Import one kind of source: a loader starts with the code of the kind that it reads."""
    match spec.kind:
        case "lmdb":
            from gossip_caffe.data.sources.lmdb_source import LmdbDataSet, LmdbSource  # noqa: PLC0415

            return LmdbDataSet, LmdbSource
        case "leveldb":
            from gossip_caffe.data.sources.leveldb_source import LevelDbDataSet, LevelDbSource  # noqa: PLC0415

            return LevelDbDataSet, LevelDbSource
        case "hdf5":
            from gossip_caffe.data.sources.hdf5_source import Hdf5DataSet, Hdf5Source  # noqa: PLC0415

            return Hdf5DataSet, Hdf5Source
        case "images":
            from gossip_caffe.data.sources.image_source import ImageDataSet, ImageSource  # noqa: PLC0415

            return ImageDataSet, ImageSource
        case "dataset":
            from gossip_caffe.data.sources.dataset_source import DatasetSource, UsersDataSet  # noqa: PLC0415

            return UsersDataSet, DatasetSource
        case "annotated_lmdb" | "annotated_leveldb":
            return _annotated(spec.kind)
    raise DataError(
        f"data of the kind {spec.kind!r} is not supported",
        remedy=f"use {', '.join(SOURCE_KINDS)}",
    )


def _annotated(kind: str) -> tuple[_Look, _Open]:
    from gossip_caffe.data.sources.annotated_source import AnnotatedSource, annotated_shapes  # noqa: PLC0415

    if kind == ANNOTATED["lmdb"]:
        from gossip_caffe.data.sources.lmdb_source import LmdbDataSet, LmdbSource  # noqa: PLC0415

        return partial(LmdbDataSet, shapes_of=annotated_shapes), partial(AnnotatedSource.of, LmdbSource)
    from gossip_caffe.data.sources.leveldb_source import LevelDbDataSet, LevelDbSource  # noqa: PLC0415

    return partial(LevelDbDataSet, shapes_of=annotated_shapes), partial(AnnotatedSource.of, LevelDbSource)
