"""A checkpoint as the two files that plain Caffe goes on from: PREFIX.caffemodel and PREFIX.solverstate."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from gossip_caffe.checkpoint.manifest import MODEL, STATE
from gossip_caffe.checkpoint.solverstate import learned_net_field
from gossip_caffe.errors import EnvironmentProblem


def export(checkpoint: Path, prefix: Path) -> list[Path]:
    """Copy the files of a checkpoint's folder, which was verified; returns what was written, the model first.

    Each is written whole or not at all, and replaces what was there. The state names the model by its absolute path, as
    Caffe's own does; where the checkpoint has none an older state goes, since it would name a model that it is not of.
    Raises EnvironmentProblem when they cannot be written.
    """
    model = prefix.with_name(f"{prefix.name}.caffemodel").absolute()
    state = prefix.with_name(f"{prefix.name}.solverstate").absolute()
    written = [model]
    has_state = (checkpoint / STATE).is_file()
    try:
        if not has_state:
            state.unlink(missing_ok=True)
        _copy(checkpoint / MODEL, model, b"")
        if has_state:
            _copy(checkpoint / STATE, state, learned_net_field(str(model)))
            written.append(state)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write {error.filename or model} ({error.strerror})",
            remedy="check the folder and its disk, or give another --to",
        ) from error
    return written


def _copy(source: Path, target: Path, end: bytes) -> None:
    unfinished = target.with_name(f".{target.name}.unfinished-{os.getpid()}")
    try:
        with source.open("rb") as read, unfinished.open("wb") as write:
            shutil.copyfileobj(read, write, 1 << 20)
            write.write(end)
            write.flush()
            os.fsync(write.fileno())
        unfinished.replace(target)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
