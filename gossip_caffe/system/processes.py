"""Child processes that cannot outlive their parent.

Linux sends a child the signal of ``PR_SET_PDEATHSIG`` when the *thread* that created it ends. Create children in a
thread that lives as long as the process: the main thread.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from gossip_caffe.begin import dying_with, for_python
from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.system.launch import without_rank

_ASK_AND_EXEC = """
import ctypes, os, signal, sys
parent, number, program, *arguments = sys.argv[1:]
if ctypes.CDLL(None).prctl(1, int(number), 0, 0, 0) != 0:
    sys.exit("prctl(PR_SET_PDEATHSIG) failed")
if os.getppid() != int(parent):
    os.kill(os.getpid(), int(number))
for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(ignored, signal.SIG_DFL)
os.execv(program, arguments)
"""
"""A Python script that requests the signal and then executes the program. It takes 20 ms, and serves any program.

It restores the two signals that every Python process ignores. A child that runs a module of this package asks by
itself instead, as it begins (``begin.py``).
"""


def is_alive(pid: int) -> bool:
    """True if a process with that id exists, of any user."""
    return Path(f"/proc/{pid}").exists()


def started_at(pid: int) -> int | None:
    """The start of a process of this user, in clock ticks since the machine's; None: there is no such process.

    The number of a process that has ended may be given to another one; the two starts then differ.
    """
    try:
        if Path(f"/proc/{pid}").stat().st_uid != os.geteuid():
            return None
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[19]) if fields[0] not in {"Z", "X"} else None


def kill_started_at(pid: int, started: int) -> bool:
    """Send SIGKILL to the process of this user that has this number and this start. False: it has ended.

    The descriptor names one process for ever, so the check and the signal are about the same one.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if started_at(pid) != started:
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def end_descriptor(process: subprocess.Popen[bytes]) -> int:
    """A descriptor that becomes readable at the end of a new process.

    Kills the process if there is no such descriptor, and raises OSError.
    """
    try:
        return os.pidfd_open(process.pid)
    except OSError:
        process.kill()
        process.wait()
        raise


def no_room(what: str, error: OSError) -> EnvironmentProblem:
    """The error for a machine that cannot run another process."""
    remedy = "free memory, or raise the limits on processes and open files (ulimit -u, ulimit -n)"
    if isinstance(error, FileNotFoundError | PermissionError):
        remedy = f"see whether {sys.executable or 'Python'} is still there, and whether this user may run it"
    return EnvironmentProblem(f"cannot start {what} ({error.strerror or error})", remedy=remedy)


def spawn(
    arguments: Sequence[str],
    *,
    pass_fds: Sequence[int] = (),
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    environment: Mapping[str, str | None] | None = None,
    death_signal: int = signal.SIGKILL,
    folder: Path | None = None,
    umask: int = -1,
) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own that dies with this process.

    ``environment`` is added to this process's environment and to ``for_python()``; None removes a variable. The
    variables of a launcher of MPI are not passed on.
    ``folder``: its working folder. ``umask``: its file mode mask. The default of both is this process's. Standard
    input is closed. The program has its own group because a terminal sends Ctrl-C to a whole group, and only the top
    process may decide what it means.

    No code of ours runs between fork and exec, when another thread of this process may have left any lock held. Raises
    FileNotFoundError for a program that does not exist.
    """
    program = shutil.which(arguments[0])
    if program is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), arguments[0])
    parent, number = os.getpid(), int(death_signal)
    asking = [sys.executable, "-I", "-S", "-c", _ASK_AND_EXEC, str(parent), str(number)]
    command = dying_with(parent, number, arguments) or [*asking, str(Path(program).absolute()), *arguments]
    merged = {**os.environ, **without_rank(os.environ), **for_python(), **(environment or {})}
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        pass_fds=tuple(pass_fds),
        cwd=folder,
        umask=umask,
        process_group=0,
        env={name: value for name, value in merged.items() if value is not None},
    )
