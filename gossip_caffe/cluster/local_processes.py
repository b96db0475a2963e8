"""The process of one peer of a local cluster, and its end by SIGKILL at the wish of a person.

The supervisor of the cluster, which only this user can ask, names the process. A number of a process may be given to
another one when the first has ended, so the process is also known by the time of its start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gossip_caffe.errors import NotFound
from gossip_caffe.system.processes import kill_started_at, started_at


@dataclass(frozen=True, slots=True)
class PeerOfCluster:
    """The agent of a peer. ``started``: the time of its start, in clock ticks since the machine's."""

    peer: str
    pid: int
    started: int


def find_process(status: Mapping[str, Any], job: str, peer: str, pid: int) -> PeerOfCluster:
    """Find the process of a peer. ``status``: of its cluster, as the supervisor answers. ``pid``: as its record has it.

    Raises NotFound for a peer that is no running process of the cluster: another one may have its name.
    """
    running = {row["peer"]: row["pid"] for row in status["peers"] if row["running"]}
    is_here = status["job"] == job and pid > 0 and running.get(peer) == pid
    started = started_at(pid) if is_here else None
    if started is None:
        raise NotFound(
            f"{peer} is no running process of cluster {status['cluster']!r} on this machine",
            remedy="drain it instead: it leaves by itself",
        )
    return PeerOfCluster(peer, pid, started)


def kill_process(found: PeerOfCluster) -> None:
    """Send SIGKILL to a peer's agent; its solver and its loader die with it. Raises NotFound if it has ended before."""
    if not kill_started_at(found.pid, found.started):
        raise NotFound(f"{found.peer} (pid {found.pid}) has ended already")
