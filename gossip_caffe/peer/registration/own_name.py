"""The lock on a peer's name in a run folder: no other process writes its event log and its checkpoints."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gossip_caffe.errors import Conflict
from gossip_caffe.system.folders import folder_within, lock, open_within, own_folder
from gossip_caffe.system.host import host_name
from gossip_caffe.system.name_locks import name_lock

INSTEAD = "give another --run-dir"
PATIENCE_S = 2.0
"""Seconds to wait for the name: a process that was killed takes a while to end, and has the name until then."""
_LOOK_EVERY_S = 0.05
_HOLDER = re.compile(rb"([0-9]{1,10}) ([A-Za-z0-9._-]{1,253})\n")


@contextmanager
def own_name(run_dir: Path, peer: str, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Hold a peer's name in a run folder until the end of the block, or of the process, whatever ends it.

    The name is held by a lock on a file in the folder (flock), which no child process inherits. Raises Conflict naming
    the process that holds the name, and EnvironmentProblem for a folder that belongs to another user, that other users
    may write, or in which no file can be locked.
    """
    own_folder(run_dir, INSTEAD)
    path = name_lock(run_dir, peer)
    folder_within(path.parent, INSTEAD)
    file = _locked(path, peer, run_dir, patience_s)
    try:
        file.truncate(0)
        file.write(f"{os.getpid()} {host_name()}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _locked(path: Path, peer: str, run_dir: Path, patience_s: float) -> IO[bytes]:
    deadline = time.monotonic() + patience_s
    while True:
        file: IO[bytes] = open_within(path, "a+b", INSTEAD)
        try:
            lock(file, path, "give a --run-dir on a disk of this machine")
            if _is_still(path, file):
                return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Conflict(
                    f"a peer {peer!r} is running already in {run_dir} ({_holder(file)})",
                    remedy="choose another --name, or none, or another --run-dir",
                ) from None
            time.sleep(_LOOK_EVERY_S)
        file.close()


def _is_still(path: Path, file: IO[bytes]) -> bool:
    """Whether ``path`` still names the locked file: the last owner may have removed it before it ended its lock."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _holder(file: IO[bytes]) -> str:
    file.seek(0)
    said = _HOLDER.fullmatch(file.read(512) or b"")
    if said is None:
        return "by a process that has not said its number yet"
    pid, host = said[1].decode(), said[2].decode()
    return f"pid {pid}" if host == host_name() else f"pid {pid} on {host}"
