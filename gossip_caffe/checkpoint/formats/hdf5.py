"""Snapshots in Caffe's HDF5 format, converted from its binary format. Needs h5py.

The layout is that of Net::ToHDF5 in net.cpp and SGDSolver::SnapshotSolverStateToHDF5 in sgd_solver.cpp.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from gossip_caffe.wire import caffe_wire_pb2 as wire


def hdf5_can_be_written() -> bool:
    """True if h5py is installed."""
    return importlib.util.find_spec("h5py") is not None


def model_to_hdf5(source: Path, target: Path) -> None:
    """Write a .caffemodel as a .caffemodel.h5. Raises OSError."""
    net = wire.NetParameter.FromString(source.read_bytes())
    with _open(target) as file:
        data = file.create_group("data")
        for layer in net.layer:
            group = data.create_group(layer.name)
            for index, blob in enumerate(layer.blobs):
                _put(group, str(index), blob)


def state_to_hdf5(source: Path, target: Path, learned_net: str) -> None:
    """Write a .solverstate as a .solverstate.h5 that names its weights. Raises OSError."""
    state = wire.SolverState.FromString(source.read_bytes())
    with _open(target) as file:
        file.create_dataset("iter", data=np.array([state.iter], np.int32))
        file.create_dataset("learned_net", data=_text(learned_net))
        file.create_dataset("current_step", data=np.array([state.current_step], np.int32))
        history = file.create_group("history")
        for index, blob in enumerate(state.history):
            _put(history, str(index), blob)


def _open(target: Path) -> Any:
    return importlib.import_module("h5py").File(target, "w")


def _put(group: Any, name: str, blob: wire.BlobProto) -> None:
    group.create_dataset(name, data=np.array(blob.data, np.float32).reshape(tuple(blob.shape.dim)))


def _text(text: str) -> Any:
    """A string in the form that Caffe reads: with a zero byte at its end."""
    content = text.encode()
    return np.array(content, dtype=f"S{len(content) + 1}")
