"""The folder of a local cluster, and the lock that allows only one supervisor."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import IO

from gossip_caffe.cluster.state.sockets import remove_sockets
from gossip_caffe.errors import Conflict, EnvironmentProblem
from gossip_caffe.membership.keys import checked_name, is_name
from gossip_caffe.system.folders import folder_within, lock, open_within, own_folder

DEFAULT_NAME = "local"
"""The name of a cluster without --name."""
INSTEAD = "set $GOSSIP_CAFFE_STATE to a folder of your own"


def clusters_root() -> Path:
    """Return the folder of all local clusters: $GOSSIP_CAFFE_STATE, else XDG's state folder.

    Raises EnvironmentProblem for a user without a home.
    """
    try:
        if explicit := os.environ.get("GOSSIP_CAFFE_STATE"):
            return Path(explicit).expanduser()  # a shell has not, where a service or a container sets it
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "gossip-caffe"
    except RuntimeError:  # $HOME is not set, and this machine does not know the user
        raise EnvironmentProblem(f"user {os.getuid()} has no home folder here", remedy=INSTEAD) from None


class ClusterState:
    """The folder of one cluster, with the paths of all files in it."""

    def __init__(self, name: str, root: Path | None = None) -> None:
        self.name = checked_name(name, "cluster")
        self._root = root or clusters_root()
        self.folder = self._root / "clusters" / name

    @property
    def socket(self) -> Path:
        """The socket on which the supervisor listens for commands."""
        return self.folder / "supervisor.sock"

    @property
    def etcd(self) -> Path:
        """The folder of its etcd's data."""
        return self.folder / "etcd"

    @property
    def run(self) -> Path:
        """The run folder of its peers, for events and checkpoints."""
        return self.folder / "run"

    @property
    def sockets(self) -> Path:
        """The folder of the sockets of etcd and the peers, or a link to that folder (``sockets.opened``)."""
        return self.folder / "sockets"

    def log(self, process: str) -> Path:
        """Return the file with the output of one of its processes."""
        return self.folder / "logs" / f"{process}.log"

    def open_log(self, process: str, mode: str) -> IO[bytes]:
        """Open the log of a process for writing. Raises EnvironmentProblem for a link, or for another user's file."""
        log = self.log(process)
        self.check()
        folder_within(log.parent, INSTEAD)
        return open_within(log, mode, INSTEAD)

    def check(self) -> None:
        """Make the folder if it is missing; only this user can open it.

        Raises EnvironmentProblem for a folder that is another user's, that others may write, or that is a link.
        """
        own_folder(self._root, INSTEAD, shared=True)
        for folder in (self.folder.parent, self.folder):
            folder_within(folder, INSTEAD)

    def remove(self) -> None:
        """Remove the folder and its sockets, if they exist."""
        remove_sockets(self.sockets)
        shutil.rmtree(self.folder, ignore_errors=True)

    def lock(self) -> IO[str]:
        """Lock the cluster. Returns the file that holds the lock until it is closed.

        Raises Conflict when another supervisor has the lock, EnvironmentProblem as ``check``.
        """
        self.check()
        file: IO[str] = open_within(self.folder / "supervisor.lock", "a+", INSTEAD)
        try:
            lock(file, Path(file.name), "set $GOSSIP_CAFFE_STATE to a folder on a disk of this machine")
        except BlockingIOError:
            file.close()
            raise Conflict(
                f"cluster {self.name!r} is up already",
                remedy=f"see 'gossip-caffe cluster status --name {self.name}', or give another --name",
            ) from None
        self.socket.unlink(missing_ok=True)
        return file

    @property
    def taken(self) -> bool:
        """True while a supervisor has the lock, which is until the last of its processes has ended."""
        try:
            self.lock().close()
        except Conflict:
            return True
        return False


def known_clusters() -> list[ClusterState]:
    """Return the clusters with a supervisor's socket, sorted by name. A killed supervisor leaves its socket."""
    sockets = sorted((clusters_root() / "clusters").glob("*/supervisor.sock"))
    return [ClusterState(path.parent.name) for path in sockets if is_name(path.parent.name)]
