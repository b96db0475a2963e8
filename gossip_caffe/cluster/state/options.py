"""The options with which a local cluster is started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gossip_caffe.cluster.state.folder import ClusterState
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.peer.core.lifecycle import GRACE_S
from gossip_caffe.security.security import PLAIN, Security


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """The options of a cluster.

    - ``peers``: the number of peers at the start. ``gpus``: the GPU's number for each peer that trains on one.
    - ``job``: the job's name. ``spec``: the job to create; None: the job exists already.
    - ``etcd``: the endpoints of etcd; empty: the cluster starts its own etcd. ``etcd_host``, ``etcd_port``: the address
      at which its own etcd listens, for every program; empty: a Unix socket, for this user only.
    - ``restart``: a new peer replaces one that is killed. ``gives_up``: the cluster ends when the job can no longer be
      finished. ``from_checkpoint``: the job first goes back to this checkpoint.
    - ``of_peers``: more arguments for each ``peer start``; ``arguments_of``: further arguments, from the peer's name
      and etcd's address; ``before``: arguments before the command, from the peer's name.
    - ``metrics_listen``: the address of each peer's metrics; "none": they serve none; empty: their default.
    - ``grace_s``: the seconds that each peer has for leaving.
    - ``security``: the identity of the supervisor and of its peers.
    - ``started``: this process is rank 0 of a launch of MPI, and so is its first peer; called with the arguments of
      ``peer start`` when that peer starts: the other ranks become peers by them. None: there are no other ranks.
    """

    state: ClusterState
    peers: int
    job: str
    spec: JobSpec | None = None
    etcd: tuple[str, ...] = ()
    engine: str = "pycaffe"
    restart: bool = False
    of_peers: tuple[str, ...] = ()
    from_checkpoint: str = ""
    arguments_of: Callable[[str, str], tuple[str, ...]] = lambda _name, _etcd: ()
    gpus: tuple[int, ...] = ()
    before: Callable[[str], tuple[str, ...]] = lambda _: ()
    etcd_host: str = ""
    etcd_port: int = 0
    gives_up: bool = False
    metrics_listen: str = "none"
    grace_s: float = GRACE_S
    security: Security = PLAIN
    started: Callable[[tuple[str, ...]], None] | None = None
