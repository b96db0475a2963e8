"""Records in a LevelDB, as Caffe's tools write them by default: read in key order, found by chunk, never changed.

LevelDB locks a database's folder and writes to it when it opens it. So several peers of one machine could not read the
same data set, and no peer could read it from a read-only file system. Each peer therefore opens a shadow: a temporary
folder with links to the tables, which never change, and copies of the few small files that do.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.sources.datum import Record, decode
from gossip_caffe.data.sources.transform import ShapesOf, Transformer, datum_shapes
from gossip_caffe.errors import DataError, NotInstalled
from gossip_caffe.job.spec.spec import SourceSpec
from gossip_caffe.system.processes import is_alive

_PREFIX = "gossip-caffe-leveldb-"
_TABLES = (".ldb", ".sst")


class LevelDbDataSet:
    """The facts about a LevelDB that a new job needs: ``records``, ``shapes``, ``digest``.

    ``shapes_of``: measures the first record. Raises DataError when the data does not fit its layer.
    """

    digest = ""

    def __init__(self, spec: SourceSpec, shapes_of: ShapesOf = datum_shapes) -> None:
        self._path = spec.path
        with _opened(spec.path) as database, _named(spec.path):
            first = next(database.iterator(), None)
            if first is None:
                raise DataError(f"the LevelDB at {spec.path} is empty", remedy="write the data set")
            self.shapes = shapes_of(spec, first[1], _where(spec.path, first[0]))
            self.records = sum(1 for _ in database.iterator(include_value=False))

    def chunk_keys(self, chunk_records: int) -> tuple[str, ...]:
        """Return the key (hex) of the first record of each chunk, by one pass over the keys."""
        with _opened(self._path) as database, _named(self._path):
            keys = islice(database.iterator(include_value=False), 0, None, chunk_records)
            return tuple(key.hex() for key in keys)


class LevelDbSource:
    """A RecordSource over a LevelDB: a chunk is found by its first key, and then read in key order."""

    def __init__(self, spec: SourceSpec, chunk_records: int, seed: int) -> None:
        self._path = spec.path
        self._chunk_records = chunk_records
        self._keys = [bytes.fromhex(key) for key in spec.chunk_keys]
        self._transform = spec.transform
        self._transformer = Transformer(spec.transform, seed)
        self._records: Iterator[tuple[bytes, bytes]] = iter(())
        self._at = -1
        with ExitStack() as stack:
            self._database = stack.enter_context(_opened(spec.path))
            last = (len(self._keys) - 1) * chunk_records
            with _named(spec.path):
                found = last + sum(
                    1 for _ in self._database.iterator(start=self._keys[-1], include_value=False)
                )
            if found != spec.records:
                raise DataError(
                    f"the LevelDB at {spec.path} has {found} records, the job was made for {spec.records}",
                    remedy="bring the same data to this machine, or create the job again",
                )
            self._opened = stack.pop_all()

    def fill(self, epoch: int, start: int, stop: int, out: Sequence[NDArray[np.float32]]) -> None:
        """Write the records [start, stop) to ``out``, in key order. Raises DataError with the LevelDB and the key."""
        records = list(self.read(start, stop))
        self._transformer.apply(records, epoch, start, out[0])
        if len(out) > 1:
            out[1][:] = [record.label for record in records]

    def read(self, start: int, stop: int) -> Iterator[Record]:
        """Yield the records [start, stop), untransformed. Raises as ``fill``."""
        return (decode(value, where, self._transform) for where, value in self.raw(start, stop))

    def check_unwritten(self) -> None:
        """Do nothing: each process reads a shadow of its own."""

    def raw(self, start: int, stop: int) -> Iterator[tuple[str, bytes]]:
        """Yield (name for messages, value) of the records [start, stop). Raises as ``fill``."""
        if self._at != start:
            self._seek(start)
        with _named(self._path):
            for index in range(start, stop):
                item = next(self._records, None)
                if item is None:
                    raise DataError(
                        f"{self._path} ends after {index} records", remedy="it changed: create the job again"
                    )
                chunk, rest = divmod(index, self._chunk_records)
                if not rest and item[0] != self._keys[chunk]:
                    raise self._lost(chunk)  # LevelDB skips blocks that it cannot read
                self._at = index + 1
                yield _where(self._path, item[0]), item[1]

    def _seek(self, index: int) -> None:
        chunk, steps = divmod(index, self._chunk_records)
        key = self._keys[chunk]
        with _named(self._path):
            self._records = self._database.iterator(start=key, verify_checksums=True)
            first = next(self._records, None)
        if first is None or first[0] != key:
            raise self._lost(chunk)
        if steps:
            with _named(self._path):
                for _ in islice(self._records, steps - 1):
                    pass
        else:
            self._records = chain((first,), self._records)
        self._at = index

    def _lost(self, chunk: int) -> DataError:
        return DataError(
            f"{_where(self._path, self._keys[chunk])}: the first record of chunk {chunk} is gone or broken",
            remedy="bring the same data to this machine, or create the job again",
        )

    def where(self, index: int) -> str:
        """Return a record's name for messages: the LevelDB and the key."""
        self._seek(index)
        self._at = -1
        with _named(self._path):
            key, _ = next(self._records, (b"", b""))
        return _where(self._path, key)

    def close(self) -> None:
        """Close the database, and remove the shadow."""
        self._records = iter(())
        self._opened.close()


def raw_records(path: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of each record, in key order. Raises DataError."""
    with _opened(path) as database, _named(path):
        yield from database.iterator(verify_checksums=True)


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    shadow = _shadow(path)
    remove = partial(shutil.rmtree, shadow, ignore_errors=True)
    atexit.register(remove)  # for a process that ends without closing it
    try:
        with _named(path):
            database = plyvel().DB(str(shadow), create_if_missing=False)
        try:
            yield database
        finally:
            database.close()
    finally:
        atexit.unregister(remove)
        remove()


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Turn an error of LevelDB into a DataError that names the database."""
    try:
        yield
    except plyvel().Error as error:
        raise DataError(
            f"cannot read the LevelDB at {path} ({error})", remedy="write the data set again"
        ) from None


def _shadow(path: str) -> Path:
    """Make a shadow that LevelDB may lock and write to. Shadows of processes that were killed are removed."""
    source = Path(path).absolute()
    if source.is_file():
        raise DataError(
            f"{path} is a file", remedy=f"name the LevelDB's folder: source: {str(Path(path).parent)!r}"
        )
    if not (source / "CURRENT").is_file():
        lmdb = ", but an LMDB (backend: LMDB)" if (source / "data.mdb").is_file() else ""
        raise DataError(
            f"there is no LevelDB at {path}{lmdb}", remedy="check data_param.source, or write the data set"
        )
    _remove_stale()
    shadow = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    try:
        for file in source.iterdir():
            if file.suffix in _TABLES:
                (shadow / file.name).symlink_to(file)
            elif file.name == "CURRENT" or file.name.startswith("MANIFEST-") or file.suffix == ".log":
                shutil.copyfile(file, shadow / file.name)
    except OSError as error:
        shutil.rmtree(shadow, ignore_errors=True)
        raise DataError(
            f"cannot read the LevelDB at {path} ({error})", remedy="check the folder's rights"
        ) from None
    return shadow


def _remove_stale() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdecimal() and not is_alive(int(owner)) and not _is_locked(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_locked(folder: Path) -> bool:
    """True if a process has LevelDB's lock. Process ids cannot tell: another container has ids of its own."""
    try:
        with (folder / "LOCK").open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def plyvel() -> Any:
    """Return the plyvel module. Raises EnvironmentProblem when it is not installed."""
    try:
        import plyvel  # noqa: PLC0415 - needed only for LevelDB
    except ImportError:
        raise NotInstalled(
            "a LevelDB is read with plyvel, which is not installed",
            name="plyvel",
            remedy="pip install 'gossip-caffe[leveldb]' (Python 3.13 and newer: g++ and libleveldb-dev first), "
            "or convert the data to LMDB",
        ) from None
    return plyvel


def _where(path: str, key: bytes) -> str:
    return f"{path}, key {key.decode('utf-8', 'backslashreplace')!r}"
