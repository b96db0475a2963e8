"""The LMDBs that are open in this process: each is open once, and with its lock if possible.

LMDB allows a process to open a file only once, and several layers may name the same file. A reader's lock prevents a
writer from reusing pages that the reader still reads. On a file system without locks the data is read without a lock,
and a write meanwhile is detected.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lmdb

from gossip_caffe.errors import DataError

MAX_READERS = 512
"""The size of a new reader table: it needs one place for each source layer of each process on this machine."""
_FILES = ("data.mdb", "lock.mdb")

Identity = tuple[int, int]


@dataclass(slots=True)
class _Held:
    environment: lmdb.Environment
    locked: bool
    users: int = 0


_held: dict[Identity, _Held] = {}
_notices: list[str] = []
_guard = threading.Lock()


class SharedLmdb:
    """A reference to an open LMDB. The last ``close`` closes the LMDB.

    ``lock``: False reads without LMDB's lock. The constructor and ``begin`` raise DataError when it cannot be read.
    """

    def __init__(self, path: str, *, lock: bool = True) -> None:
        self.path = path
        self._identity = _identity(path)
        with _guard:
            held = _held.get(self._identity)
            if held is None:
                held = _held[self._identity] = _Held(*_opened(path, lock=lock))
            held.users += 1
        self._held: _Held | None = held
        self._seen = self._last_write()

    @property
    def locked(self) -> bool:
        """True if the LMDB is read with its lock, so that a writer sees this reader."""
        return self._environment.locked

    @property
    def entries(self) -> int:
        """The number of records."""
        return int(self._environment.environment.stat()["entries"])

    def begin(self) -> lmdb.Transaction:
        """Begin a read transaction, whose values are views of the file's pages. Raises DataError when that fails."""
        try:
            return self._begin()
        except lmdb.Error as error:
            raise DataError(
                f"cannot read the LMDB at {self.path} ({error})",
                remedy="end other programs that read it on this machine, or write the data set again",
            ) from None

    def _begin(self) -> lmdb.Transaction:
        held = self._environment
        try:
            return held.environment.begin(buffers=True)
        except lmdb.Error as error:
            with _guard:
                if held.users > 1 or not held.locked:
                    raise
                # Without a place in the reader table the data is read without a lock.
                held.environment.close()
                held.environment, held.locked = _open(self.path, lock=False), False
                if isinstance(error, lmdb.ReadersFullError):
                    _note_full(self.path)
            self._seen = self._last_write()
            return held.environment.begin(buffers=True)

    def check_unwritten(self) -> None:
        """Raise DataError if the LMDB was written to while it is read without a lock."""
        if not self.locked and self._last_write() != self._seen:
            raise DataError(
                f"the LMDB at {self.path} was written to while it is trained, and it could not be locked",
                remedy="write to a copy; or make lock.mdb beside it writable",
            )

    def close(self) -> None:
        """Drop this reference; the last reference closes the LMDB."""
        held, self._held = self._held, None
        if held is None:
            return
        with _guard:
            held.users -= 1
            if not held.users:
                _held.pop(self._identity, None)
                held.environment.close()

    @property
    def _environment(self) -> _Held:
        if self._held is None:
            raise DataError(f"the LMDB at {self.path} is closed", remedy="report this defect")
        return self._held

    def _last_write(self) -> int:
        return int(self._environment.environment.info()["last_txnid"])


@contextmanager
def cursor_of(path: str, *, lock: bool = True) -> Iterator[lmdb.Cursor]:
    """Yield a cursor over an LMDB, which is open only for the block. Raises DataError."""
    shared = SharedLmdb(path, lock=lock)
    try:
        with shared.begin() as transaction, transaction.cursor() as cursor:
            yield cursor
    except lmdb.Error as error:
        raise unreadable(path, error) from None
    finally:
        shared.close()


def _note_full(path: str) -> None:
    _notices.append(
        f"the LMDB at {path} has no place left for a reader, and is read without its lock: do not write to it"
    )


def take_notices() -> list[str]:
    """Return the lines that the user should know about the open LMDBs, each line once."""
    taken = list(_notices)
    _notices.clear()
    return taken


def unreadable(path: str, error: lmdb.Error) -> DataError:
    """Make the error for an LMDB that cannot be read further."""
    return DataError(f"cannot read the LMDB at {path} ({error})", remedy="write the data set again")


def _identity(path: str) -> Identity:
    """Return the device and inode of the LMDB's file, the same for every path to it. Raises DataError."""
    given = Path(path)
    if given.is_file():
        folder = f": source: {str(given.parent)!r}" if given.name in _FILES else ""
        raise DataError(f"{path} is a file", remedy=f"name the LMDB's folder{folder}")
    try:
        found = (given / _FILES[0]).stat()
    except FileNotFoundError:
        raise DataError(_absence(given), remedy="check data_param.source, or write the data set") from None
    except OSError as error:
        raise DataError(
            f"cannot open the LMDB at {path} ({error.strerror})", remedy="check the path and its rights"
        ) from None
    return found.st_dev, found.st_ino


def _absence(given: Path) -> str:
    if (given / "CURRENT").is_file():
        return f"there is no LMDB at {given}, but a LevelDB (backend: LEVELDB)"
    return f"there is no LMDB at {given}"


def _opened(path: str, *, lock: bool) -> tuple[lmdb.Environment, bool]:
    """Open the LMDB. Returns it, and True if it is locked. As in Caffe, it is opened without a lock if that fails."""
    if lock:
        try:
            environment = _open(path, lock=True)
        except lmdb.ReadersFullError:
            _note_full(path)
        except lmdb.Error:
            pass  # a folder or a lock file of another user, or a file system without locks
        else:
            # The places of killed readers would keep writers from reusing pages, so they are freed.
            environment.reader_check()
            # LMDB itself opens without a lock on a read-only file system.
            return environment, os.access(Path(path) / _FILES[1], os.W_OK)
    try:
        return _open(path, lock=False), False
    except lmdb.Error as error:
        raise DataError(
            f"cannot open the LMDB at {path} ({error})", remedy="write the data set again"
        ) from None


def _open(path: str, *, lock: bool) -> lmdb.Environment:
    return lmdb.open(path, readonly=True, lock=lock, readahead=False, max_readers=MAX_READERS, subdir=True)
