"""Records in an LMDB, as Caffe's tools write them: read-only, in cursor order, found by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import lmdb
import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.datum import Record, decode
from gossip_caffe.data.raw_run import RawRun
from gossip_caffe.data.transform import Transformer
from gossip_caffe.errors import DataError
from gossip_caffe.job.spec import SourceSpec

_PROGRESS_EVERY_RECORDS = 1 << 16


def _open(path: str) -> lmdb.Environment:
    if not (Path(path) / "data.mdb").exists():
        raise DataError(
            f"there is no LMDB at {path}", remedy="check data_param.source, or write the data set"
        )
    try:
        # No lock file: the data may lie on a read-only file system, and nobody writes while it is trained.
        return lmdb.open(path, readonly=True, lock=False, readahead=False, max_readers=1, subdir=True)
    except lmdb.Error as error:
        raise DataError(
            f"cannot open the LMDB at {path} ({error})", remedy="write the data set again"
        ) from None


@contextmanager
def _cursor(path: str) -> Iterator[lmdb.Cursor]:
    """Open, and close again soon: LMDB allows a process to have a file open only once."""
    environment = _open(path)
    try:
        with environment.begin() as transaction, transaction.cursor() as cursor:
            yield cursor
    except lmdb.Error as error:
        raise DataError(
            f"cannot read the LMDB at {path} ({error})", remedy="write the data set again"
        ) from None
    finally:
        environment.close()


class LmdbDataSet:
    """What a job must know of an LMDB before it is cut. Raises DataError when the data does not fit its layer."""

    digest = ""

    def __init__(self, spec: SourceSpec) -> None:
        self._path = path = spec.path
        environment = _open(path)
        self.records = int(environment.stat()["entries"])
        environment.close()
        if not self.records:
            raise DataError(f"the LMDB at {path} is empty", remedy="write the data set")
        with _cursor(path) as cursor:
            cursor.first()
            record = decode(bytes(cursor.value()), _where(path, bytes(cursor.key())), spec.transform)
        shape = Transformer(spec.transform, seed=0).shape_of(record)
        self.shapes: tuple[tuple[int, ...], ...] = (shape, ())[: len(spec.tops)]

    def chunk_keys(
        self, chunk_records: int, progress: Callable[[int], None] | None = None
    ) -> tuple[str, ...]:
        """Find the key of the first record of each chunk, by one pass over the keys.

        ``progress`` is told from time to time how many records were passed.
        """
        found = []
        with _cursor(self._path) as cursor:
            for index, key in enumerate(cursor.iternext(keys=True, values=False)):
                if index % chunk_records == 0:
                    found.append(bytes(key).hex())
                if progress is not None and index % _PROGRESS_EVERY_RECORDS == 0:
                    progress(index)
        return tuple(found)


class LmdbSource:
    """Random access by chunk; one long read transaction, which a read-only file makes free."""

    def __init__(self, spec: SourceSpec, chunk_records: int, seed: int) -> None:
        self._path = path = spec.path
        self._chunk_records = chunk_records
        self._keys = [bytes.fromhex(key) for key in spec.chunk_keys]
        self._transform = spec.transform
        self._transformer = Transformer(spec.transform, seed)
        self._environment = _open(path)
        found = int(self._environment.stat()["entries"])
        if found != spec.records:
            self._environment.close()
            raise DataError(
                f"the LMDB at {path} has {found} records, the job was made for {spec.records}",
                remedy="bring the same data to this machine, or create the job again",
            )
        # Values are views of the file's pages: a batch is read from where it lies.
        self._transaction = self._environment.begin(buffers=True)
        self._cursor = self._transaction.cursor()
        self._at = -1
        self._run = self._alike(spec)

    def _alike(self, spec: SourceSpec) -> RawRun | None:
        """What the raw records have in common, if the first one is raw and has the shape that the job says."""
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
        """Write the records [start, stop) in cursor order. Raises DataError naming the LMDB and the key."""
        if not self._fill_alike(epoch, start, stop, out):
            records = list(self.read(start, stop))
            self._transformer.apply(records, epoch, start, out[0])
            if len(out) > 1:
                out[1][:] = [record.label for record in records]

    def _fill_alike(self, epoch: int, start: int, stop: int, out: Sequence[NDArray[np.float32]]) -> bool:
        """The quick way for raw records of the first one's shape; False when some are not, and nothing was written."""
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
        self._at = -1  # whatever comes next: where the cursor stands is known again when all went well
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
        try:
            if self._at != start:
                self._seek(start)
            for index in range(start, stop):
                if self._at != index:
                    raise DataError(
                        f"{self._path} ends after {index} records", remedy="it changed: create the job again"
                    )
                where = _where(self._path, bytes(self._cursor.key()))
                record = decode(bytes(self._cursor.value()), where, self._transform)
                self._at = index + 1 if self._cursor.next() else -1
                yield record
        except lmdb.Error as error:
            raise DataError(
                f"cannot read the LMDB at {self._path} ({error})", remedy="write the data set again"
            ) from None

    def _seek(self, index: int) -> None:
        chunk, steps = divmod(index, self._chunk_records)
        if not self._cursor.set_key(self._keys[chunk]):
            raise DataError(
                f"{_where(self._path, self._keys[chunk])}: the first record of chunk {chunk} is gone",
                remedy="bring the same data to this machine, or create the job again",
            )
        moved = all(self._cursor.next() for _ in range(steps))
        self._at = index if moved else -1

    def close(self) -> None:
        """Close the LMDB."""
        self._cursor.close()
        self._transaction.abort()
        self._environment.close()


def _where(path: str, key: bytes) -> str:
    return f"{path}, key {key.decode('utf-8', 'backslashreplace')!r}"
