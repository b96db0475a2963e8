"""Records from a user's own data set, for layers that a program fills in plain Caffe (Input, MemoryData).

``module:callable`` names a callable without arguments. It returns an object with ``len()`` and ``dataset[i]``: a tuple
with one array for each filled top, in the order of the net (a single top may be the array itself). An index must always
give the same record. docs/data.md has an example.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.errors import CorruptRecord, DataError
from gossip_caffe.job.spec.spec import SourceSpec


class UsersDataSet:
    """The facts about a user's data set that a new job needs: ``records``, ``shapes``, ``digest``.

    Raises DataError when the data does not fit its layer.
    """

    digest = ""

    def __init__(self, spec: SourceSpec) -> None:
        source = DatasetSource(spec, 1, 0)
        self.records = source.records
        if not self.records:
            raise DataError(f"{spec.path}: the data set is empty", remedy="give it records")
        source.values(0)
        self.shapes = tuple(top.shape for top in spec.tops)

    def chunk_keys(self, chunk_records: int) -> tuple[str, ...]:
        """Return no keys: a record is found by its number."""
        del chunk_records
        return ()


class DatasetSource:
    """A RecordSource over a user's data set: records are read by number."""

    def __init__(self, spec: SourceSpec, chunk_records: int, seed: int) -> None:
        del chunk_records, seed  # the user's code alone decides about random numbers
        self._spec = spec
        self._dataset = _made(spec)
        self.records = self._length()
        if spec.records and self.records != spec.records:
            raise DataError(
                f"{spec.path} has {self.records} records, the job was made for {spec.records}",
                remedy="bring the same data to this machine, or create the job again",
            )

    def fill(self, epoch: int, start: int, stop: int, out: Sequence[NDArray[np.float32]]) -> None:
        """Write the records [start, stop) to ``out``. Raises DataError, naming the data set and the record."""
        del epoch
        for row, index in enumerate(range(start, stop)):
            for array, value in zip(out, self.values(index), strict=True):
                array[row] = value

    def values(self, index: int) -> list[NDArray[np.float32]]:
        """Return one record's values for this layer's tops, float32. Raises CorruptRecord."""
        where = self.where(index)
        try:
            record = self._dataset[index]
            values = record if isinstance(record, tuple | list) else (record,)
            first = self._spec.first
            own = [np.asarray(value, np.float32) for value in values[first : first + len(self._spec.tops)]]
        except (Exception, SystemExit) as error:  # the user's own code may raise anything
            raise _failed(where, error, CorruptRecord) from None
        wanted = [top.shape for top in self._spec.tops]
        found = [value.shape for value in own]
        if found != wanted:
            raise CorruptRecord(
                f"{where}: values of the shapes {found}, but layer {self._spec.layer!r} takes {wanted}",
                remedy="change the net, or what the data set returns",
            )
        return own

    def where(self, index: int) -> str:
        """Return a record's name for messages."""
        return f"{self._spec.path}, record {index}"

    def _length(self) -> int:
        try:
            return len(self._dataset)
        except (Exception, SystemExit) as error:  # the user's own code may raise anything
            raise _failed(f"{self._spec.path}: len()", error) from None

    def close(self) -> None:
        """Do nothing: the data set lives as long as its process."""


def _made(spec: SourceSpec) -> Any:
    module, colon, name = spec.path.partition(":")
    if not (module and colon and name):
        raise DataError(f"--dataset {spec.path}: not MODULE:CALLABLE", remedy="write --dataset mydata:train")
    if spec.folder and spec.folder not in sys.path:
        sys.path.append(spec.folder)
    try:
        _bring(module.partition(".")[0], spec.folder)
        return getattr(importlib.import_module(module), name)()
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        raise _failed(spec.path, error) from None


def _bring(name: str, folder: str) -> None:
    """Import the user's module from its folder, even if another module of that name is installed.

    The folder is last in the search path for all other modules: a ``random.py`` there does not replace Python's own.
    """
    if not folder or name in sys.modules or name in sys.stdlib_module_names:
        return
    found = PathFinder.find_spec(name, [folder])
    if found is None or found.loader is None:
        return
    module = sys.modules[name] = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _failed(where: str, error: BaseException, kind: type[DataError] = DataError) -> DataError:
    said = " ".join(str(error).split())
    return kind(f"{where}: {type(error).__name__}: {said}", remedy="correct the data set's code")
