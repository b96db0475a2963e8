"""Child processes that cannot outlive their parent.

Linux sends a child the signal of ``PR_SET_PDEATHSIG`` when the *thread* that made it ends, so spawn from a thread
that lives as long as the process: the main one.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent_pid: int, signal_number: int = signal.SIGKILL) -> None:
    """Ask the kernel to send this process ``signal_number`` when its parent ends.

    ``parent_pid`` is the parent that this process was made for: if it is gone before the request is in force, the
    process ends at once. Survives ``exec`` of an ordinary binary.
    """
    if _LIBC.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal_number)


def is_alive(pid: int) -> bool:
    """Tell whether there is a process of that number, anybody's."""
    return Path(f"/proc/{pid}").exists()


def _before_exec(parent_pid: int, signal_number: int) -> Callable[[], None]:
    def prepare() -> None:
        # A terminal's Ctrl-C goes to the whole foreground group; only the top process may decide what it means.
        os.setpgid(0, 0)
        die_with_parent(parent_pid, signal_number)

    return prepare


def spawn(
    arguments: Sequence[str],
    *,
    pass_fds: Sequence[int] = (),
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    environment: Mapping[str, str] | None = None,
    death_signal: int = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own that dies with this process.

    ``environment`` is added to this process's. Standard input is closed.
    """
    kwargs: dict[str, Any] = {}
    if environment is not None:
        kwargs["env"] = {**os.environ, **environment}
    return subprocess.Popen(
        list(arguments),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        pass_fds=tuple(pass_fds),
        preexec_fn=_before_exec(os.getpid(), death_signal),  # noqa: PLW1509 - spawned before other threads hold locks
        **kwargs,
    )
