"""Errors of the machine, for example a full disk: each becomes one line with its remedy."""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path

from gossip_caffe.errors import EnvironmentProblem

_REMEDIES = {
    errno.ENOSPC: "free some disk space",
    errno.EDQUOT: "free some disk space, or raise the quota",
    errno.EMFILE: "raise the limit on open files with 'ulimit -n 1024'",
    errno.ENFILE: "raise the machine's limit on open files ('sysctl fs.file-max')",
    errno.ENOMEM: "free some memory, or raise the limit with 'ulimit -v'",
    errno.EROFS: "use a folder that can be written",
    errno.EIO: "see whether the disk is sound",
    errno.EFBIG: "raise the limit on the size of files with 'ulimit -f unlimited'",
    errno.ESTALE: "mount the file system again",
}
MANY_FILES = 65_536
_MORE_PROCESSES = "raise the limit on processes with 'ulimit -u'"


def problem_of(error: BaseException) -> EnvironmentProblem | None:
    """Return the lack of the machine that caused an unexpected error; None for a defect of gossip-caffe."""
    found = map(_problem, _causes(error))
    return next((problem for problem in found if problem is not None), None)


def _problem(cause: BaseException) -> EnvironmentProblem | None:
    what, remedy = "", ""
    match cause:
        case MemoryError():
            what, remedy = "there is not enough memory", _REMEDIES[errno.ENOMEM]
        case RuntimeError() if "can't start new thread" in str(cause):
            what, remedy = "cannot start another thread", _MORE_PROCESSES
        case BlockingIOError() if cause.errno == errno.EAGAIN and not cause.filename:
            what, remedy = "cannot start another process", _MORE_PROCESSES
        case OSError() if cause.errno in _REMEDIES:
            where = f" at {os.fsdecode(cause.filename)}" if isinstance(cause.filename, str | bytes) else ""
            what, remedy = f"{cause.strerror}{where}", _REMEDIES[cause.errno]
        case FileNotFoundError() if not working_folder_exists():
            what, remedy = "the working folder is no longer there", "change to a folder that exists"
        case FileNotFoundError() if "usable temporary directory" in str(cause):
            what = "there is no folder for temporary files that can be written"
            remedy = "set $TMPDIR to one, or free some disk space"
        case ImportError() if (cause.msg or "").startswith("lib"):
            what, remedy = f"a library cannot be loaded ({cause.msg})", "see 'gossip-caffe doctor'"
    return EnvironmentProblem(what, remedy=remedy) if what else None


def working_folder_exists() -> bool:
    """True unless the working folder of this process was removed."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


def allow_many_files() -> None:
    """Raise the soft limit on open files to the hard limit, MANY_FILES at most: a peer opens files for each partner."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            pass  # the limit stays as it was


def hear_signals() -> None:
    """Have the signals that end a command, and those of children that end, whatever the parent did with them.

    A parent may have blocked them, or ignored SIGCHLD: then nobody learns how a child ended, and each counts as well.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    heard = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, heard)


def _causes(error: BaseException) -> list[BaseException]:
    """Return the error, the errors of its group, and the causes of all of them."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop(0)
        if one is None or one in found:
            continue
        found.append(one)
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        waiting += [one.__cause__, None if one.__suppress_context__ else one.__context__]
    return found
