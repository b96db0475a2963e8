"""The databases of Caffe's Data layer, written in transactions and read record by record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import lmdb

from gossip_caffe.data.sources.leveldb_source import plyvel, raw_records
from gossip_caffe.data.sources.lmdb_environment import SharedLmdb, cursor_of
from gossip_caffe.errors import DataError, EnvironmentProblem

FIRST_MAP_BYTES = 1 << 28
MOST_KEY_BYTES = 511
"""LMDB's limit."""

Item = tuple[bytes, bytes]


class Writer(Protocol):
    """A database that grows by whole transactions, in the order of its keys."""

    def put(self, items: Sequence[Item]) -> None:
        """Write these records in one transaction. Raises EnvironmentProblem when the disk takes no more."""
        ...

    def last_key(self) -> bytes:
        """Return the key of the last record; empty when there is none."""
        ...

    def count(self) -> int:
        """Return the number of records."""
        ...

    def close(self) -> None:
        """Close the database."""
        ...


class LmdbWriter:
    """An LMDB. Its map grows with its records."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = lmdb.open(str(folder), map_size=FIRST_MAP_BYTES)

    def put(self, items: Sequence[Item]) -> None:
        """Write these records in one transaction."""
        while True:
            try:
                with self._environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                    cursor.putmulti(items, append=True)
            except lmdb.MapFullError:
                # The transaction is undone; it is made again in a larger map.
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
            except lmdb.Error as error:
                raise EnvironmentProblem(
                    f"cannot write {self._folder} ({error})",
                    remedy="free some space, and give the same command",
                ) from None
            else:
                return

    def last_key(self) -> bytes:
        """Return the key of the last record."""
        with self._environment.begin() as transaction, transaction.cursor() as cursor:
            return bytes(cursor.key()) if cursor.last() else b""

    def count(self) -> int:
        """Return the number of records."""
        return int(self._environment.stat()["entries"])

    def close(self) -> None:
        """Close the database."""
        self._environment.close()


class LevelDbWriter:
    """A LevelDB, with the block size that Caffe gives it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._database = plyvel().DB(str(folder), create_if_missing=True, block_size=65536)

    def put(self, items: Sequence[Item]) -> None:
        """Write these records in one transaction."""
        try:
            with self._database.write_batch(transaction=True, sync=True) as batch:
                for key, value in items:
                    batch.put(key, value)
        except (plyvel().Error, OSError) as error:
            raise EnvironmentProblem(
                f"cannot write {self._folder} ({error})", remedy="free some space, and give the same command"
            ) from None

    def last_key(self) -> bytes:
        """Return the key of the last record."""
        return bytes(next(self._database.iterator(include_value=False, reverse=True), b""))

    def count(self) -> int:
        """Return the number of records."""
        return sum(1 for _ in self._database.iterator(include_value=False))

    def close(self) -> None:
        """Close the database."""
        self._database.close()


def open_writer(folder: Path, backend: str) -> Writer:
    """Open a database for writing; it is made when there is none. Raises EnvironmentProblem."""
    try:
        return LmdbWriter(folder) if backend == "lmdb" else LevelDbWriter(folder)
    except (lmdb.Error, OSError) as error:
        raise EnvironmentProblem(f"cannot write {folder} ({error})", remedy="check the folder") from None


def backend_of(path: str) -> str:
    """Return the kind of the database at ``path``. Raises DataError where there is none."""
    folder = Path(path)
    if (folder / "data.mdb").is_file():
        return "lmdb"
    if (folder / "CURRENT").is_file():
        return "leveldb"
    raise DataError(f"there is no LMDB and no LevelDB at {path}", remedy="name the database's folder")


def records_of(path: str) -> Iterator[Item]:
    """Yield key and value of each record, in the order in which Caffe reads them. Raises DataError."""
    if backend_of(path) == "leveldb":
        yield from raw_records(path)
        return
    with cursor_of(path) as cursor:
        for key, value in cursor:
            yield bytes(key), bytes(value)


def count_of(path: str) -> int:
    """Return the number of records, for a progress; 0 where only reading all of them would tell."""
    if backend_of(path) == "leveldb":
        return 0
    shared = SharedLmdb(path)
    try:
        return shared.entries
    finally:
        shared.close()
