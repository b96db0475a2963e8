"""A checkpoint as the two files from which plain Caffe resumes: PREFIX.caffemodel and PREFIX.solverstate."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from gossip_caffe.checkpoint.manifest import MODEL, STATE
from gossip_caffe.checkpoint.solverstate import learned_net_field
from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.system.folders import flush


def export(checkpoint: Path, prefix: Path) -> list[Path]:
    """Copy the files of a verified checkpoint's folder. Returns the written files, the model first.

    Each file is written whole or not at all, and replaces an older one. The state names the model by its absolute
    path, as Caffe does. If the checkpoint has no state, an older state file is removed, because it would name a model
    that is not its own. Raises EnvironmentProblem when the files cannot be written.
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
            flush(write.fileno())
        unfinished.replace(target)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
