"""The folder of a local cluster's sockets: its path is short enough for addresses, and only its user can open it.

The path of a Unix socket has at most 107 bytes on Linux. When the path of the cluster's folder is too long, the sockets
are in a folder with a random name elsewhere, and a link in the cluster's folder points to it. The process that has made
such a folder locks it (flock), so that the next cluster can recognise and remove the folders of killed clusters.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.system.folders import folder_within
from gossip_caffe.system.unix_sockets import MOST_PATH_BYTES, path_fault

LONGEST_NAME = "x" * 32
"""A name as long as the longest name of a cluster's socket."""
PREFIX = "gossip-caffe-sockets-"
_RANDOM_BYTES = 8
"""The length of the random part of a name from ``mkdtemp``."""
_HELD: dict[Path, int] = {}
"""Folders elsewhere that this process has made → the descriptors that lock them."""


def opened(wanted: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Make a folder for sockets at ``wanted``, or a link there to such a folder. Returns the folder, which is empty.

    Sockets of an earlier cluster are removed. The caller must have locked the cluster. Raises EnvironmentProblem.
    """
    instead = "give the cluster another folder, by $GOSSIP_CAFFE_STATE"
    remove_sockets(wanted)
    here = wanted.parent.resolve() / wanted.name
    if not path_fault(here / LONGEST_NAME):
        folder_within(here, instead)
        return here
    folder_within(wanted.parent, instead)
    for parent in _short_folders(environment):
        _sweep(parent)
        try:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)).resolve()
            _HELD[folder] = _locked(folder)
            wanted.symlink_to(folder)
        except OSError:
            continue
        return folder
    raise EnvironmentProblem(
        f"{here} cannot be the path of a Unix socket, which has at most {MOST_PATH_BYTES} bytes and no comma",
        remedy="set $GOSSIP_CAFFE_STATE to a shorter path, or $XDG_RUNTIME_DIR to a folder of your own",
    )


def _short_folders(environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield the folders in which folders with random names may be made: the user's own, then those of all users."""
    for folder in (environment.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"):
        if folder and not path_fault(Path(folder) / f"{PREFIX}{'x' * _RANDOM_BYTES}" / LONGEST_NAME):
            yield Path(folder)


def remove_sockets(wanted: Path) -> None:
    """Remove the folder of sockets, or the link and its target: only sockets, and only in folders of this program."""
    if not wanted.is_symlink():
        _empty(wanted)
        return
    folder = wanted.readlink()
    if folder.name.startswith(PREFIX):
        _empty(folder)
        if (descriptor := _HELD.pop(folder, None)) is not None:
            os.close(descriptor)
    wanted.unlink(missing_ok=True)


def _sweep(parent: Path) -> None:
    """Remove the folders that killed clusters have left in ``parent``."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            descriptor = _locked(folder)
        except OSError:
            continue  # another cluster uses it, or it was removed
        _empty(folder)
        os.close(descriptor)


def _locked(folder: Path) -> int:
    """Return a descriptor that locks a folder of this user while it is open. Raises OSError when it is locked."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid() or not os.path.samestat(found, folder.lstat()):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _empty(folder: Path) -> None:
    """Remove the sockets in a folder, and the folder if it is empty then."""
    try:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return
        for path in folder.iterdir():
            if path.is_socket():
                path.unlink(missing_ok=True)
        folder.rmdir()
    except OSError:
        return  # the folder was removed, or contains other files
