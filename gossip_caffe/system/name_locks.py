"""The lock on a peer's name in a run folder: its place, and whether a process holds it now."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def name_lock(run_dir: Path, peer: str) -> Path:
    """The file that the process of this name locks for as long as it lives. A killed process leaves the file behind."""
    return run_dir / "locks" / f"{peer}.lock"


def is_held(path: Path) -> bool | None:
    """Whether a process holds the lock; None if that cannot be known here: there is no such file, or it is another's.

    The question takes a shared lock for a moment, and a process that wants the name tries for longer than that.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None  # a file system without locks
    finally:
        os.close(descriptor)
    return False
