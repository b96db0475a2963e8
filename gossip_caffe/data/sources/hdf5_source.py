"""Records in HDF5 files, as Caffe's HDF5Data reads them: a list of files, each with one dataset for each top."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.sources.listed import ListFile, find, read_list
from gossip_caffe.errors import CorruptRecord, DataError, NotInstalled
from gossip_caffe.job.spec.spec import SourceSpec
from gossip_caffe.printable import printable_line

_OPEN_FILES = 8


class Hdf5DataSet:
    """The facts about HDF5 files that a new job needs: ``records``, ``shapes``, ``digest``.

    Raises DataError when the data does not fit its layer.
    """

    def __init__(self, spec: SourceSpec) -> None:
        files = _Files(spec)
        self.records = files.first[-1]
        self.digest = files.digest
        self.shapes = files.shapes

    def chunk_keys(self, chunk_records: int) -> tuple[str, ...]:
        """Return no keys: a record is found by its number."""
        del chunk_records
        return ()


class Hdf5Source:
    """A RecordSource over HDF5 files: records are read by number; at most _OPEN_FILES files are open."""

    def __init__(self, spec: SourceSpec, chunk_records: int, seed: int) -> None:
        del chunk_records, seed  # HDF5 data has no random transformation
        self._spec = spec
        self._files = _Files(spec)
        found = self._files.first[-1]
        if found != spec.records or self._files.digest != spec.digest:
            raise DataError(
                f"the files of {spec.path} are not those of the job: {found} records here, {spec.records} in the job",
                remedy="bring the same data to this machine, or create the job again",
            )
        self._open: dict[int, Any] = {}

    def fill(self, epoch: int, start: int, stop: int, out: Sequence[NDArray[np.float32]]) -> None:
        """Write the records [start, stop) to ``out``, from one or more files. Raises DataError, naming the file."""
        del epoch
        at = start
        while at < stop:
            number = bisect_right(self._files.first, at) - 1
            begin = self._files.first[number]
            last = min(stop, self._files.first[number + 1])
            file = self._file(number)
            for top, array in zip(self._spec.tops, out, strict=True):
                try:
                    # h5py converts to the array's float32 as it reads, as Caffe's H5LTread_dataset_float does.
                    file[top.name].read_direct(
                        array, np.s_[at - begin : last - begin], np.s_[at - start : last - start]
                    )
                except OSError as error:
                    raise CorruptRecord(
                        f"{self._files.paths[number]}, dataset {top.name!r}, records {at - begin} to "
                        f"{last - begin - 1}: cannot be read ({error})",
                        remedy="write the file again",
                    ) from None
                except (KeyError, ValueError, TypeError) as error:
                    raise DataError(
                        f"{self._files.paths[number]}, dataset {top.name!r}: cannot be read ({error})",
                        remedy="write the file again",
                    ) from None
            at = last

    def where(self, index: int) -> str:
        """Return a record's name for messages: the file, and the number in it."""
        number = bisect_right(self._files.first, index) - 1
        return f"{printable_line(str(self._files.paths[number]))}, record {index - self._files.first[number]}"

    def _file(self, number: int) -> Any:
        if number not in self._open:
            while len(self._open) >= _OPEN_FILES:
                self._open.pop(next(iter(self._open))).close()
            self._open[number] = _open(self._files.paths[number], self._files.where[number])
        return self._open[number]

    def close(self) -> None:
        """Close the files."""
        for file in self._open.values():
            file.close()
        self._open.clear()


class _Files:
    """The listed files. ``first``: the number of each file's first record, then the number of all records."""

    def __init__(self, spec: SourceSpec) -> None:
        listed: ListFile = read_list(spec.path)
        self.digest = listed.digest
        self.where = [listed.where(number) for number, _ in listed.lines]
        self.paths = [find(name.strip(), spec.folder, listed) for _, name in listed.lines]
        names = [top.name for top in spec.tops]
        counts: list[int] = []
        self.shapes: tuple[tuple[int, ...], ...] = ()
        for path, where in zip(self.paths, self.where, strict=True):
            with _open(path, where) as file:
                shapes = [_shape(file, path, name) for name in names]
            if len({shape[0] for shape in shapes}) != 1:
                rows = ", ".join(f"{name}: {shape[0]}" for name, shape in zip(names, shapes, strict=True))
                raise DataError(f"{path}: datasets of unequal length ({rows})", remedy="write the file again")
            records = tuple(shape[1:] for shape in shapes)
            if self.shapes and records != self.shapes:
                raise DataError(
                    f"{path}: records of the shapes {records}, but the data set began with {self.shapes}",
                    remedy="give all files one shape",
                )
            self.shapes = records
            counts.append(shapes[0][0])
        self.first = [0, *accumulate(counts)]
        if not self.first[-1]:
            raise DataError(f"the files of {spec.path} contain no records", remedy="write the data set")


def _shape(file: Any, path: Path, name: str) -> tuple[int, ...]:
    if name not in file:
        found = ", ".join(sorted(file)) or "none"
        raise DataError(
            f"{path}: no dataset {name!r} (there are: {found})",
            remedy="name the layer's tops like the datasets",
        )
    dataset = file[name]
    if not hasattr(dataset, "shape") or dataset.dtype.kind not in "fiu":
        raise DataError(f"{path}: {name!r} contains no numbers", remedy="write floats or integers")
    if not dataset.shape:
        raise DataError(f"{path}: {name!r} is a single value", remedy="give it an axis for the records")
    return tuple(int(length) for length in dataset.shape)


def imported_h5py() -> Any:
    """Return the module h5py, which is loaded only where an HDF5 file is read. Raises NotInstalled."""
    try:
        import h5py  # noqa: PLC0415 - needed only for HDF5 files
    except ImportError:
        raise NotInstalled(
            "HDF5 files are read with h5py, which is not installed",
            name="h5py",
            remedy="pip install 'gossip-caffe[hdf5]'",
        ) from None
    return h5py


def _open(path: Path, where: str) -> Any:
    h5py = imported_h5py()
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise DataError(
            f"{where}: cannot open {printable_line(str(path))} ({error})",
            remedy="check the list and the file",
        ) from None
