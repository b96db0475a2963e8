"""A reader for a net's TEST phase, for data that the installed Caffe may not be able to read itself.

A Caffe without OpenCV reads neither ImageData nor encoded Datums, and one without LevelDB reads no LevelDB. Caffe finds
the files of an HDF5 list only from one working folder, this reader from any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Protocol

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from gossip_caffe.data.labels import check_labels
from gossip_caffe.data.sources.datum import Record
from gossip_caffe.data.sources.hdf5_source import Hdf5Source
from gossip_caffe.data.sources.image_source import ImageSource
from gossip_caffe.data.sources.leveldb_source import LevelDbSource
from gossip_caffe.data.sources.lmdb_environment import cursor_of
from gossip_caffe.data.sources.lmdb_source import LmdbSource, where_of
from gossip_caffe.data.sources.transform import Transformer, read_mean
from gossip_caffe.errors import DataError
from gossip_caffe.job.spec.spec import FedLayer, LabelBound, SourceSpec
from gossip_caffe.wire import caffe_wire_pb2 as wire


def is_to_be_fed(fed: FedLayer) -> bool:
    """True if this reader feeds the layer, because not every Caffe reads its data: all but LMDBs of raw records."""
    if fed.source.kind != "lmdb":
        return True
    try:
        # Caffe may have locked this LMDB in this process: to close a second lock would remove Caffe's.
        with cursor_of(fed.source.path, lock=False) as cursor:
            return cursor.first() and wire.Datum.FromString(bytes(cursor.value())).encoded
    except (DataError, DecodeError):
        return False  # Caffe reports the fault


def where_in_lmdb(fed: FedLayer, index: int) -> str:
    """Return the name for messages of a record in an LMDB that Caffe reads. Raises DataError."""
    path = fed.source.path
    with cursor_of(path, lock=False) as cursor:
        key = next(islice(cursor.iternext(keys=True, values=False), index, None), b"")
        return where_of(path, bytes(key))


class _Reader(Protocol):
    def where(self, index: int) -> str:
        """Return a record's name for messages."""
        ...

    def read(self, start: int, stop: int) -> Iterator[Record]:
        """Yield the records [start, stop), untransformed."""
        ...

    def close(self) -> None:
        """Close the files."""
        ...


_READERS: dict[str, Callable[[SourceSpec, int, int], _Reader]] = {
    "lmdb": LmdbSource,
    "leveldb": LevelDbSource,
    "images": ImageSource,
}


class TestReader:
    """The batches of one layer, from the first record on, and again from the first after the last.

    Crops are central and nothing is random, as in Caffe's TEST phase. HDF5 data is not transformed.
    """

    __test__ = False  # pytest must not collect it for its name

    def __init__(self, fed: FedLayer) -> None:
        self._fed = fed
        spec = fed.source
        self._hdf5 = Hdf5Source(spec, spec.records, 0) if spec.kind == "hdf5" else None
        self._reader = _READERS[spec.kind](spec, spec.records, 0) if self._hdf5 is None else None
        self._checked = Transformer(spec.transform, 0)
        transform = spec.transform
        self._mean: NDArray[np.float32] | None = None
        if transform.mean_file:
            self._mean = read_mean(transform.mean_file)
        elif transform.mean_values:
            self._mean = np.array(transform.mean_values, dtype=np.float32).reshape(-1, 1, 1)
        self._at = 0

    def skip(self, batches: int) -> None:
        """Skip ``batches`` batches."""
        self._at = (self._at + batches * self._fed.batch_records) % self._fed.source.records

    def fill(self, out: Sequence[NDArray[np.float32]], bounds: Sequence[LabelBound] = ()) -> None:
        """Write the next batch to ``out``, one array for each top; the second top holds the labels.

        ``bounds``: the bounds of the labels. Raises DataError, naming the record.
        """
        size, records = self._fed.batch_records, self._fed.source.records
        first = self._at
        done = 0
        while done < size:
            count = min(size - done, records - self._at)
            self._fill_part([array[done : done + count] for array in out], self._at, self._at + count)
            self._at = (self._at + count) % records
            done += count
        check_labels(bounds, self._fed.source.tops, out, lambda row: self._where((first + row) % records))

    def _where(self, index: int) -> str:
        source = self._hdf5 if self._hdf5 is not None else self._reader
        return source.where(index) if source is not None else ""

    def _fill_part(self, out: Sequence[NDArray[np.float32]], start: int, stop: int) -> None:
        if self._hdf5 is not None:
            self._hdf5.fill(0, start, stop, out)
        for index, record in enumerate(self._reader.read(start, stop) if self._reader is not None else ()):
            self._checked.check(record)
            out[0][index] = self._transformed(record.values)
            if len(out) > 1:
                out[1][index] = record.label

    def _transformed(self, values: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (value − mean) · scale of the central crop, as DataTransformer::Transform in Caffe's TEST phase."""
        transform, mean = self._fed.source.transform, self._mean
        if crop := transform.crop_size:
            top, left = (values.shape[1] - crop) // 2, (values.shape[2] - crop) // 2
            values = values[:, top : top + crop, left : left + crop]
            if mean is not None and transform.mean_file:
                mean = mean[:, top : top + crop, left : left + crop]
        result = values.astype(np.float32)
        if mean is not None:
            result -= mean
        if transform.scale != 1:
            result *= np.float32(transform.scale)
        return result

    def close(self) -> None:
        """Close the files."""
        for source in (self._hdf5, self._reader):
            if source is not None:
                source.close()
