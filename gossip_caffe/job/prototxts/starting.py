"""The start of a job that does not begin with fresh weights: weight files, or a snapshot of plain Caffe."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from gossip_caffe.errors import ModelError, UsageError
from gossip_caffe.job.prototxts.paths import Paths, readable
from gossip_caffe.job.prototxts.prototxt import Document
from gossip_caffe.job.prototxts.solver_states import read_state
from gossip_caffe.job.spec.spec import FileSpec, StartSpec


def read_start(solver: Document, paths: Paths, weights: Sequence[str], state: str) -> StartSpec:
    """Find the files of ``--weights`` and ``--resume``. Without either, the solver's own ``weights`` are used.

    Each name may be a list with commas, as for ``caffe train``. Raises UsageError for both options together, and
    ModelError for files that are missing or no snapshot.
    """
    if weights and state:
        raise UsageError(
            "--weights and --resume exclude each other", remedy="a snapshot names its weights itself"
        )
    if state:
        return _resumed(paths, paths.resolve(state))
    named = weights or solver.root.texts("weights")
    files = [name.strip() for entry in named for name in entry.split(",") if name.strip()]
    return StartSpec(tuple(file_at(paths.resolve(name), "weight file") for name in files))


def file_at(path: Path, what: str) -> FileSpec:
    """A file's path, size and digest now. Raises ModelError when it cannot be read."""
    with readable(path, what):
        return FileSpec(str(path), _digest(path))


def start_file_problem(start: StartSpec) -> str:
    """The reason why a job cannot be started from its files on this machine; "" when it can."""
    for file in start.files:
        try:
            found = _digest(Path(file.path))
        except OSError as error:
            return f"cannot read {file.path} ({error.strerror})"
        if found != file.sha256:
            return f"{file.path} is not the file that the job was made with"
    return ""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _resumed(paths: Paths, path: Path) -> StartSpec:
    file, state = file_at(path, "solver state"), read_state(path)
    if not state.learned_net:
        raise ModelError(f"{path} names no weights", remedy="give a snapshot that plain Caffe wrote")
    # Caffe wrote the path relative to its working folder. A snapshot that was moved has its weights beside it.
    named = paths.resolve(state.learned_net)
    beside = path.with_name(Path(state.learned_net).name)
    weights = beside if beside.exists() and not named.exists() else named
    return StartSpec((file_at(weights, f"weight file of {path.name}"),), file, state.iter)
