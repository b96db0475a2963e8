"""Records in an LMDB, as Caffe's tools write them: opened read-only, read in cursor order, found by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import lmdb
import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.sources.datum import Record, decode
from gossip_caffe.data.sources.lmdb_environment import SharedLmdb, cursor_of, unreadable
from gossip_caffe.data.sources.raw_run import RawRun
from gossip_caffe.data.sources.transform import ShapesOf, Transformer, datum_shapes
from gossip_caffe.errors import DataError
from gossip_caffe.job.spec.spec import SourceSpec

_PROGRESS_EVERY_RECORDS = 1 << 16


class LmdbDataSet:
    """The facts about an LMDB that a new job needs: ``records``, ``shapes``, ``digest``.

    ``shapes_of``: measures the first record. Raises DataError when the data does not fit its layer.
    """

    digest = ""

    def __init__(self, spec: SourceSpec, shapes_of: ShapesOf = datum_shapes) -> None:
        self._path = path = spec.path
        shared = SharedLmdb(path)
        self.records = shared.entries
        shared.close()
        if not self.records:
            raise DataError(f"the LMDB at {path} is empty", remedy="write the data set")
        with cursor_of(path) as cursor:
            cursor.first()
            self.shapes = shapes_of(spec, bytes(cursor.value()), where_of(path, bytes(cursor.key())))

    def chunk_keys(
        self, chunk_records: int, progress: Callable[[int], None] | None = None
    ) -> tuple[str, ...]:
        """Return the key (hex) of the first record of each chunk, by one pass over the keys.

        ``progress`` is called from time to time with the number of passed records.
        """
        found = []
        with cursor_of(self._path) as cursor:
            for index, key in enumerate(cursor.iternext(keys=True, values=False)):
                if index % chunk_records == 0:
                    found.append(bytes(key).hex())
                if progress is not None and index % _PROGRESS_EVERY_RECORDS == 0:
                    progress(index)
        return tuple(found)


class LmdbSource:
    """A RecordSource over an LMDB: a chunk is found by its first key, and then read in cursor order.

    All reads are in one transaction, so later writes are not seen.
    """

    def __init__(self, spec: SourceSpec, chunk_records: int, seed: int) -> None:
        self._path = path = spec.path
        self._chunk_records = chunk_records
        self._keys = [bytes.fromhex(key) for key in spec.chunk_keys]
        self._transform = spec.transform
        self._transformer = Transformer(spec.transform, seed)
        self._shared = SharedLmdb(path)
        # Values are views of the file's pages: a batch is read without a copy.
        try:
            self._transaction = self._shared.begin()
        except DataError:
            self._shared.close()
            raise
        self._cursor = self._transaction.cursor()
        found = int(self._transaction.stat()["entries"])
        if found != spec.records:
            self.close()
            raise DataError(
                f"the LMDB at {path} has {found} records, the job was made for {spec.records}",
                remedy="bring the same data to this machine, or create the job again",
            )
        self._at = -1
        self._run = self._alike(spec)

    def _alike(self, spec: SourceSpec) -> RawRun | None:
        """Return the common form of raw records, if the first record is raw and has the job's shape; else None."""
        if not self._cursor.first():
            return None
        run = RawRun.of(bytes(self._cursor.value()))
        if run is None:
            return None
        try:
            shape = self._transformer.shape_of(Record(np.empty(run.shape, np.uint8), 0, ""))
        except DataError:
            return None
        return run if shape == spec.tops[0].shape else None

    def fill(self, epoch: int, start: int, stop: int, out: Sequence[NDArray[np.float32]]) -> None:
        """Write the records [start, stop) to ``out``, in cursor order. Raises DataError with the LMDB and the key."""
        try:
            if not self._fill_alike(epoch, start, stop, out):
                records = list(self.read(start, stop))
                self._transformer.apply(records, epoch, start, out[0])
                if len(out) > 1:
                    out[1][:] = [record.label for record in records]
        finally:
            self.check_unwritten()  # a write is then the cause of any other error

    def check_unwritten(self) -> None:
        """Raise DataError when the LMDB is read without a lock, and was written to."""
        self._shared.check_unwritten()

    def where(self, index: int) -> str:
        """Return a record's name for messages: the LMDB and the key."""
        try:
            self._seek(index)
            key = bytes(self._cursor.key())
        except lmdb.Error as error:
            raise unreadable(self._path, error) from None
        return where_of(self._path, key)

    def _fill_alike(self, epoch: int, start: int, stop: int, out: Sequence[NDArray[np.float32]]) -> bool:
        """Write raw records of the first record's shape, fast. False: some record differs, and nothing was written."""
        if self._run is None:
            return False
        try:
            if self._at != start:
                self._seek(start)
            if self._at != start:
                return False
            values = list(islice(self._cursor.iternext(keys=False, values=True), stop - start))
        except lmdb.Error:
            return False
        self._at = -1  # the cursor's place is unknown until all has succeeded
        if len(values) != stop - start or (found := self._run.read(values)) is None:
            return False
        pixels, labels = found
        if self._transformer.whole:
            self._transformer.apply_whole(np.asarray(pixels), out[0])
        else:
            self._transformer.apply_each(list(pixels), epoch, start, out[0])
        if len(out) > 1:
            out[1][:] = labels
        self._at = stop if self._cursor.next() else -1
        return True

    def read(self, start: int, stop: int) -> Iterator[Record]:
        """Yield the records [start, stop) in cursor order, untransformed. Raises as ``fill``."""
        return (decode(value, where, self._transform) for where, value in self.raw(start, stop))

    def raw(self, start: int, stop: int) -> Iterator[tuple[str, bytes]]:
        """Yield (name for messages, value) of the records [start, stop) in cursor order. Raises as ``fill``."""
        try:
            if self._at != start:
                self._seek(start)
            for index in range(start, stop):
                if self._at != index:
                    raise DataError(
                        f"{self._path} ends after {index} records", remedy="it changed: create the job again"
                    )
                where = where_of(self._path, bytes(self._cursor.key()))
                value = bytes(self._cursor.value())
                self._at = index + 1 if self._cursor.next() else -1
                yield where, value
        except lmdb.Error as error:
            raise unreadable(self._path, error) from None

    def _seek(self, index: int) -> None:
        chunk, steps = divmod(index, self._chunk_records)
        if not self._cursor.set_key(self._keys[chunk]):
            raise DataError(
                f"{where_of(self._path, self._keys[chunk])}: the first record of chunk {chunk} is gone",
                remedy="bring the same data to this machine, or create the job again",
            )
        moved = all(self._cursor.next() for _ in range(steps))
        self._at = index if moved else -1

    def close(self) -> None:
        """End the transaction, and close the LMDB."""
        self._cursor.close()
        self._transaction.abort()
        self._shared.close()


def where_of(path: str, key: bytes) -> str:
    """Return a record's name for messages."""
    return f"{path}, key {key.decode('utf-8', 'backslashreplace')!r}"
