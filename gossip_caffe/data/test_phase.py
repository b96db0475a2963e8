"""Records for a net's TEST phase, read here: for data that the Caffe at hand may not be able to read itself.

Caffe's builds without OpenCV know neither ImageData nor encoded Datums, and those without LevelDB no LevelDB. The files
that an HDF5 list names are found from any working folder only here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import lmdb
import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from gossip_caffe.data.datum import Record
from gossip_caffe.data.hdf5_source import Hdf5Source
from gossip_caffe.data.image_source import ImageSource
from gossip_caffe.data.leveldb_source import LevelDbSource
from gossip_caffe.data.lmdb_source import LmdbSource
from gossip_caffe.data.transform import Transformer, read_mean
from gossip_caffe.job.spec import FedLayer, SourceSpec
from gossip_caffe.wire import caffe_wire_pb2 as wire


def is_to_be_fed(fed: FedLayer) -> bool:
    """Tell whether a layer's data is such as not every Caffe reads: all but LMDBs of raw records."""
    if fed.source.kind != "lmdb":
        return True
    try:
        with (
            lmdb.open(fed.source.path, readonly=True, lock=False) as environment,
            environment.begin() as transaction,
            transaction.cursor() as cursor,
        ):
            return cursor.first() and wire.Datum.FromString(bytes(cursor.value())).encoded
    except (lmdb.Error, DecodeError):
        return False  # Caffe says what is wrong with it


class _Reader(Protocol):
    def read(self, start: int, stop: int) -> Iterator[Record]:
        """Yield records, untransformed."""
        ...

    def close(self) -> None:
        """Let go of files."""
        ...


_READERS: dict[str, Callable[[SourceSpec, int, int], _Reader]] = {
    "lmdb": LmdbSource,
    "leveldb": LevelDbSource,
    "images": ImageSource,
}


class TestReader:
    """One layer's batches, from the first record on and around: what is random in TRAIN is not, crops are central.

    HDF5 data has no transformation.
    """

    __test__ = False  # its name is no test's

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

    def fill(self, out: Sequence[NDArray[np.float32]]) -> None:
        """Write the next batch, and where there is a second top its labels. Raises DataError naming the record."""
        size, records = self._fed.batch_records, self._fed.source.records
        done = 0
        while done < size:
            count = min(size - done, records - self._at)
            self._fill_part([array[done : done + count] for array in out], self._at, self._at + count)
            self._at = (self._at + count) % records
            done += count

    def _fill_part(self, out: Sequence[NDArray[np.float32]], start: int, stop: int) -> None:
        if self._hdf5 is not None:
            self._hdf5.fill(0, start, stop, out)
        for index, record in enumerate(self._reader.read(start, stop) if self._reader is not None else ()):
            self._checked.check(record)
            out[0][index] = self._transformed(record.values)
            if len(out) > 1:
                out[1][index] = record.label

    def _transformed(self, values: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        """(value − mean) · scale of the middle, as Caffe's DataTransformer::Transform in the TEST phase."""
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
        """Let go of files."""
        for source in (self._hdf5, self._reader):
            if source is not None:
                source.close()
