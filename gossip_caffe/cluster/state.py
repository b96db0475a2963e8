"""Where a local cluster keeps what it has, and the lock that makes it one."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from gossip_caffe.errors import Conflict, EnvironmentProblem
from gossip_caffe.membership.keys import checked_name


def clusters_root() -> Path:
    """The folder of all local clusters: $GOSSIP_CAFFE_STATE, else XDG's state folder."""
    if explicit := os.environ.get("GOSSIP_CAFFE_STATE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "gossip-caffe"


class ClusterState:
    """The folder of one cluster."""

    def __init__(self, name: str, root: Path | None = None) -> None:
        self.name = checked_name(name, "cluster")
        self.folder = (root or clusters_root()) / "clusters" / name

    @property
    def socket(self) -> Path:
        """Where its supervisor listens."""
        return self.folder / "supervisor.sock"

    @property
    def etcd(self) -> Path:
        """Data of its etcd."""
        return self.folder / "etcd"

    @property
    def run(self) -> Path:
        """Run folder of its peers: events and checkpoints."""
        return self.folder / "run"

    def log(self, process: str) -> Path:
        """What a process of it prints."""
        return self.folder / "logs" / f"{process}.log"

    def lock(self) -> IO[str]:
        """Take the cluster for this process's life. Raises Conflict when a supervisor has it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = (self.folder / "supervisor.lock").open("a+")
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot use the folder {self.folder} ({error.strerror})",
                remedy="set $GOSSIP_CAFFE_STATE to a folder that can be written",
            ) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        """True while a supervisor has it, which is until the last of its processes is gone."""
        try:
            self.lock().close()
        except Conflict:
            return True
        return False
