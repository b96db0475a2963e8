"""Folders and files of one user: other users can neither write them nor read new files in them.

The rule is that of ssh for its keys. A folder is judged by itself and not by its parents: /tmp, where every user may
create folders and no user may rename another's, is a valid place. Files in such a folder are opened without following
links, because a link could lead to a file that must not be written.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import shlex
import stat
from pathlib import Path
from typing import IO, Any

from gossip_caffe.errors import EnvironmentProblem

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def own_folder(path: Path, instead: str, *, shared: bool = False) -> None:
    """Create a folder that only this user can open, with its missing parents; or accept an existing one.

    The path may be a link if the link belongs to this user or to root. ``instead``: the remedy for the error message.
    ``shared``: other users may write to the folder if its sticky bit protects our entries, as in /tmp; for a folder in
    which only our own folders are used. Raises EnvironmentProblem when the folder cannot be created, belongs to
    another user, or can be written by others.
    """
    try:
        if (link := path.lstat()) and stat.S_ISLNK(link.st_mode) and not _is_ours(link):
            raise _refused(f"the folder {path}", f"is a link that {_owner(link)} made", instead)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unusable(f"the folder {path}", error, instead) from None
    _made(path, instead)
    _judge(path, instead, os.stat, shared=shared)


def folder_within(path: Path, instead: str) -> None:
    """Like ``own_folder``, for a folder inside such a folder: there it must not be a link of any user."""
    _made(path, instead)
    _judge(path, instead, os.lstat)


def _made(path: Path, instead: str) -> None:
    try:
        missing = [path]
        while not os.path.lexists(missing[-1].parent):
            missing.append(missing[-1].parent)
        for folder in reversed(missing):
            try:
                folder.mkdir(mode=0o700)
            except FileExistsError:
                continue  # it existed, or another process was faster; it is judged in either case
    except OSError as error:
        raise _unusable(f"the folder {path}", error, instead) from None


def _judge(path: Path, instead: str, look: Any, *, shared: bool = False) -> None:
    what = f"the folder {path}"
    try:
        found = look(path)
    except OSError as error:
        raise _unusable(what, error, instead) from None
    if stat.S_ISLNK(found.st_mode):
        raise _refused(what, "is a link", f"{instead}, or remove the link")
    if not stat.S_ISDIR(found.st_mode):
        raise _refused(what, "is no folder", instead)
    if not _is_ours(found):
        raise _refused(what, f"is of {_owner(found)}", instead)
    if found.st_mode & _OTHERS_MAY_WRITE and not (shared and found.st_mode & stat.S_ISVTX):
        remedy = f"{instead}, or see what is in it and 'chmod go-w {shlex.quote(str(path))}'"
        raise _refused(
            what, f"can be written by other users (mode {stat.S_IMODE(found.st_mode):04o})", remedy
        )


def open_within(path: Path, mode: str, instead: str) -> IO[Any]:
    """Open a file for writing in a folder of this user, like ``open``. Other users cannot read it.

    Raises EnvironmentProblem for a link, for another kind of file, and for another user's file, which are not changed;
    also when the file cannot be opened.
    """
    try:
        if "b" in mode:
            return open(path, mode, opener=private_opener, buffering=0)
        return open(path, mode, opener=private_opener, encoding="utf-8")
    except OSError as error:
        if why := _WORDS.get(error.errno or 0):
            raise _refused(str(path), why, f"{instead}, or remove it") from None
        raise _unusable(str(path), error, instead) from None


def lock(file: IO[Any], path: Path, instead: str) -> None:
    """Lock an open file until it is closed (flock).

    Raises BlockingIOError when another process holds the lock, and EnvironmentProblem where the file system has no
    locks, as NFS without its lock daemon.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        raise EnvironmentProblem(f"cannot lock {path} ({error.strerror})", remedy=instead) from None


def flush(fd: int) -> None:
    """Flush a file or a folder to the disk, as far as its file system can: some mounted ones refuse (EINVAL).

    Raises OSError when the disk failed.
    """
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise


def private_opener(path: str | os.PathLike[str], flags: int) -> int:
    """An opener for ``open``.

    A new file is readable by this user alone; an existing one must be a regular file of this user.

    Raises OSError: ELOOP for a link, EMLINK for a file with a second name, EINVAL for another kind of file, EPERM for
    another user's.
    """
    # An existing file is checked before it is truncated, and opening a pipe without a reader must not block.
    fd = os.open(path, (flags & ~os.O_TRUNC) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        found = os.fstat(fd)
        fault = (
            (not stat.S_ISREG(found.st_mode) and errno.EINVAL)
            or (found.st_uid != os.geteuid() and errno.EPERM)
            or (found.st_nlink > 1 and errno.EMLINK)
        )
        if fault:
            raise OSError(fault, os.strerror(fault), str(path))
        if found.st_mode & _FOR_OTHERS:
            os.fchmod(fd, stat.S_IMODE(found.st_mode) & ~_FOR_OTHERS)
        if flags & os.O_TRUNC:
            os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


_WORDS = {
    errno.ELOOP: "is a link",
    errno.EMLINK: "is a file with a second name (hard link)",
    errno.EINVAL: "is not a regular file",
    errno.ENXIO: "is no ordinary file",
    errno.EPERM: "is another user's",
}


def _is_ours(found: os.stat_result) -> bool:
    """True for this user's and for root's: root can change everything anyway."""
    return found.st_uid in {os.geteuid(), 0}


def _owner(found: os.stat_result) -> str:
    try:
        return f"user {pwd.getpwuid(found.st_uid).pw_name}"
    except KeyError:
        return f"user {found.st_uid}"


def _refused(what: str, why: str, remedy: str) -> EnvironmentProblem:
    return EnvironmentProblem(f"cannot use {what}: it {why}", remedy=remedy)


def _unusable(what: str, error: OSError, instead: str) -> EnvironmentProblem:
    return EnvironmentProblem(f"cannot use {what} ({error.strerror})", remedy=instead)
