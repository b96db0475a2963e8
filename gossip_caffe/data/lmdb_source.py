"""Records in an LMDB, as Caffe's tools write them: read-only, in cursor order, found by the first key of a chunk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lmdb

from gossip_caffe.data.datum import Record, decode
from gossip_caffe.errors import DataError


def _open(path: str) -> lmdb.Environment:
    if not (Path(path) / "data.mdb").exists():
        raise DataError(f"there is no LMDB at {path}", remedy="check data_param.source, or write the data set")
    try:
        # No lock file: the data may lie on a read-only file system, and nobody writes to it while it is trained.
        return lmdb.open(path, readonly=True, lock=False, readahead=False, max_readers=1, subdir=True)
    except lmdb.Error as error:
        raise DataError(f"cannot open the LMDB at {path} ({error})", remedy="write the data set again") from None


class LmdbDataSet:
    """What a job must know of an LMDB before it is cut."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._environment = _open(path)
        self.records = int(self._environment.stat()["entries"])
        if not self.records:
            raise DataError(f"the LMDB at {path} is empty", remedy="write the data set")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the first record."""
        with self._environment.begin() as transaction, transaction.cursor() as cursor:
            cursor.first()
            channels, height, width = decode(cursor.value(), _where(self._path, cursor.key())).values.shape
            return channels, height, width

    def chunk_keys(self, chunk_records: int) -> tuple[str, ...]:
        """Key of the first record of each chunk, by one pass over the keys."""
        with self._environment.begin() as transaction, transaction.cursor() as cursor:
            keys = enumerate(cursor.iternext(keys=True, values=False))
            return tuple(key.hex() for index, key in keys if index % chunk_records == 0)


class LmdbSource:
    """Random access by chunk; one long read transaction, which a read-only file makes free."""

    def __init__(self, path: str, *, chunk_records: int, chunk_keys: tuple[str, ...]) -> None:
        self._path = path
        self._chunk_records = chunk_records
        self._keys = [bytes.fromhex(key) for key in chunk_keys]
        self._environment = _open(path)
        self._transaction = self._environment.begin()
        self._cursor = self._transaction.cursor()
        self._at = -1

    def read(self, start: int, stop: int) -> Iterator[Record]:
        """The records [start, stop) in cursor order."""
        if self._at != start:
            self._seek(start)
        for index in range(start, stop):
            key = self._cursor.key()
            record = decode(self._cursor.value(), _where(self._path, key))
            self._at = index + 1
            if not self._cursor.next():
                self._at = -1
                if index + 1 < stop:
                    raise DataError(
                        f"{self._path} ends after {index + 1} records", remedy="it changed: create the job again"
                    )
            yield record

    def _seek(self, index: int) -> None:
        chunk, steps = divmod(index, self._chunk_records)
        if not self._cursor.set_key(self._keys[chunk]):
            raise DataError(
                f"{_where(self._path, self._keys[chunk])}: the first record of chunk {chunk} is gone",
                remedy="this machine has other data than the job was made for, or it changed: create the job again",
            )
        for _ in range(steps):
            self._cursor.next()

    def close(self) -> None:
        """Close the LMDB."""
        self._cursor.close()
        self._transaction.abort()
        self._environment.close()


def _where(path: str, key: bytes) -> str:
    return f"{path}, key {key.decode('utf-8', 'backslashreplace')!r}"
