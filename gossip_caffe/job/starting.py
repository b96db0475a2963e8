"""What a job starts from when it is not from fresh weights: weight files, or a plain Caffe's snapshot."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from gossip_caffe.errors import ModelError, UsageError
from gossip_caffe.job.paths import Paths, readable
from gossip_caffe.job.prototxt import Document
from gossip_caffe.job.solver_states import read_state
from gossip_caffe.job.spec import FileSpec, StartSpec


def read_start(solver: Document, paths: Paths, weights: Sequence[str], state: str) -> StartSpec:
    """Find the files of ``--weights`` and ``--resume``; without either, the solver's own ``weights`` count.

    Names may be lists with commas, as ``caffe train`` takes them. Raises UsageError for both, and ModelError for files
    that are not there or are no snapshot.
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
    """A file as it is now. Raises ModelError when it cannot be read."""
    with readable(path, what):
        return FileSpec(str(path), _digest(path))


def not_as_it_was(start: StartSpec) -> str:
    """In words, why a job cannot be started from its files on this machine; "" when it can."""
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
    # Caffe wrote the path as it was from its working folder; a snapshot that was moved has its weights beside it.
    named = paths.resolve(state.learned_net)
    beside = path.with_name(Path(state.learned_net).name)
    weights = beside if beside.exists() and not named.exists() else named
    return StartSpec((file_at(weights, f"weight file of {path.name}"),), file, state.iter)
