"""Records in an NPZ or HDF5 file: one array of data and one of labels, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.sources.hdf5_source import imported_h5py
from gossip_caffe.errors import DataError

Values = NDArray[np.uint8] | NDArray[np.float32]
_HDF5 = (".h5", ".hdf5", ".he5")
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True, slots=True)
class Arrays:
    """``data``: an array or dataset of one row for each record; ``labels``: the labels as ints.

    ``channels_last``: a row has the shape (height, width, channels).
    """

    path: Path
    data: Any
    labels: tuple[int, ...]
    digest: str
    channels_last: bool

    def row(self, index: int) -> Values:
        """Return a row as a record's values, shape (channels, height, width), uint8 or float32."""
        values = np.asarray(self.data[index])
        if self.channels_last:
            values = values.transpose(2, 0, 1)
        elif values.ndim < 3:
            # One value is 1×1×1, a vector n×1×1, a picture without channels 1×h×w.
            values = values.reshape((1, *values.shape) if values.ndim == 2 else (-1, 1, 1))
        if values.dtype == np.uint8:
            return np.ascontiguousarray(values, dtype=np.uint8)
        return np.ascontiguousarray(values, dtype=np.float32)


def is_arrays(path: Path) -> bool:
    """True if the file's name is that of an NPZ or HDF5 file."""
    return path.suffix.lower() in {".npz", *_HDF5}


def open_arrays(path: Path) -> Arrays:
    """Open an NPZ or HDF5 file. Raises DataError when it has not one array of data and one of labels."""
    try:
        found = _hdf5(path) if path.suffix.lower() in _HDF5 else _npz(path)
        state = path.stat()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error})", remedy="check the file") from None
    names = _data_and_labels(path, found)
    data, labels = found[names[0]], np.asarray(found[names[1]])
    if labels.dtype.kind == "f" and not np.array_equal(labels, np.floor(labels)):
        raise DataError(f"{path}: the labels in {names[1]!r} are not whole numbers", remedy="give integers")
    if not 1 <= len(data.shape) <= 4:
        raise DataError(
            f"{path}: {names[0]!r} has {len(data.shape)} axes", remedy="give records of at most 3 axes"
        )
    # A small last axis is that of the channels, unless the first one could be it as well.
    last = len(data.shape) == 4 and data.shape[3] in _CHANNELS and data.shape[1] not in _CHANNELS
    digest = f"{state.st_size} {state.st_mtime_ns} {names}"
    return Arrays(path, data, tuple(int(label) for label in labels.reshape(-1)), digest, last)


def _npz(path: Path) -> Mapping[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except ValueError as error:
        raise DataError(f"cannot read {path} ({error})", remedy="write it with numpy.savez") from None


def _hdf5(path: Path) -> Mapping[str, Any]:
    h5py = imported_h5py()
    file = h5py.File(path, "r")
    return {name: file[name] for name in file if isinstance(file[name], h5py.Dataset)}


def _data_and_labels(path: Path, found: Mapping[str, Any]) -> tuple[str, str]:
    """Return the names of the array of data and of that of labels: the latter has one value for each record."""
    shapes = {name: tuple(array.shape) for name, array in found.items()}
    labels = [
        name for name, shape in shapes.items() if len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    ]
    named = [name for name in labels if name.lower() in {"label", "labels", "y", "target", "targets"}]
    label = (named or labels or [""])[0]
    data = [name for name in shapes if name != label and shapes[name][:1] == shapes.get(label, ())[:1]]
    if len(data) != 1:
        there = ", ".join(f"{name!r} {'×'.join(map(str, shape))}" for name, shape in shapes.items())
        raise DataError(
            f"{path} has not one array of data and one of labels: {there or 'it is empty'}",
            remedy="write two arrays of equal length, for example 'data' and 'label'",
        )
    return data[0], label
