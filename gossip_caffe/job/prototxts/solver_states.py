"""The .solverstate files of plain Caffe, in either of its formats, as one message."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from gossip_caffe.errors import ModelError, NotInstalled
from gossip_caffe.wire import caffe_wire_pb2 as wire

_HDF5 = ".h5"


def read_state(path: Path) -> wire.SolverState:
    """Read a .solverstate or .solverstate.h5: the iteration, the history (momentum) and the path of its weights.

    Raises ModelError for any other file, and EnvironmentProblem when this machine cannot read HDF5.
    """
    try:
        state = _from_hdf5(path) if path.suffix == _HDF5 else wire.SolverState.FromString(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"there is no solver state at {path}", remedy="check the path") from None
    except (DecodeError, OSError, KeyError, ValueError):
        state = wire.SolverState()
    if not state.HasField("iter") or not state.history:
        raise ModelError(f"{path} is no .solverstate", remedy="give a snapshot that plain Caffe wrote")
    return state


def _from_hdf5(path: Path) -> wire.SolverState:
    """Parse the format of SGDSolver::SnapshotSolverStateToHDF5."""
    try:
        h5py: Any = importlib.import_module("h5py")
    except ImportError:
        raise NotInstalled(
            f"{path} is an HDF5 snapshot, and there is no h5py here",
            name="h5py",
            remedy="pip install 'gossip-caffe[hdf5]'",
        ) from None
    with h5py.File(path) as file:
        learned = file["learned_net"][()] if "learned_net" in file else b""
        state = wire.SolverState(
            iter=int(file["iter"][0]), current_step=int(file["current_step"][0]), learned_net=learned.decode()
        )
        for number in range(len(file["history"])):
            values = file["history"][str(number)][()]
            blob = state.history.add(data=values.ravel())
            blob.shape.dim.extend(values.shape)
    return state
