"""The etcd of a local cluster: on a Unix socket that only its user can open, or on a port if the user wants one."""

from __future__ import annotations

from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.cluster.state.folder import ClusterState
from gossip_caffe.cluster.state.sockets import opened
from gossip_caffe.security.security import PLAIN, Security


def own_etcd(state: ClusterState, host: str = "", port: int = 0, security: Security = PLAIN) -> EtcdServer:
    """Make the etcd of a cluster that the caller has locked; it is not started yet.

    With ``host`` it listens at that address, on ``port`` (0: any free port). Every program that reaches it may write to
    it; with certificate files in ``security``, every program with a certificate of their CA. Raises EnvironmentProblem
    when no folder for the socket can be made.
    """
    if host:
        return EtcdServer(state.etcd, port, host, tls=security.tls)
    return EtcdServer(state.etcd, sockets=opened(state.sockets))
