"""The place of etcd, and the permission to run code that a job in it names."""

from __future__ import annotations

import os
from pathlib import Path

from gossip_caffe.cluster.state.folder import DEFAULT_NAME, ClusterState
from gossip_caffe.cluster.supervision.control import ask, clusters_that_are_up
from gossip_caffe.errors import GossipCaffeError, NotFound, UsageError
from gossip_caffe.job.code import ENVIRONMENT
from gossip_caffe.membership.etcd.access.endpoints import parse_endpoints
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.security.security import PLAIN, Security
from gossip_caffe.system.environment import yes_or_no

ETCD = "GOSSIP_CAFFE_ETCD"
"""The environment variable that names the endpoints of etcd."""


def endpoints(etcd: str | None, cluster: str = "", security: Security = PLAIN) -> tuple[str, ...]:
    """Return the endpoints to use: ``etcd``, those of a local cluster by name, of the environment, or of "local".

    Raises UsageError when no etcd is given and the default cluster is not up, or when both are given; NotFound when
    the named cluster is not up.
    """
    if cluster and etcd:
        raise UsageError("--name and --etcd name two places of etcd", remedy="give one of them")
    if not cluster and (given := etcd or os.environ.get(ETCD)):
        return parse_endpoints(given, security)
    try:
        return parse_endpoints(ask(ClusterState(cluster or DEFAULT_NAME), {"do": "status"})["etcd"], security)
    except NotFound:
        if cluster:
            raise
    if others := clusters_that_are_up():
        raise UsageError(
            f"no etcd is given and no cluster {DEFAULT_NAME!r} is up (up: {', '.join(others)})",
            remedy="give --name of one of those, or --etcd HOST:PORT",
        )
    raise UsageError(
        "no etcd is given and no local cluster is up",
        remedy="give --etcd HOST:PORT, or start a cluster with 'gossip-caffe cluster up'",
    )


def only_ours(etcd: str | None, cluster: str = "", security: Security = PLAIN) -> bool:
    """True if only this user can write to the etcd that ``endpoints`` finds.

    A local cluster may also use an etcd of other machines, or let its own listen for them.
    """
    try:
        return is_local(",".join(endpoints(etcd, cluster, security)))
    except GossipCaffeError:
        return True  # no cluster is up: there is no job whose code could run


def is_local(etcd: str | None) -> bool:
    """True if every endpoint is a Unix socket of this user, or none is given: the etcd of a local cluster."""
    given = etcd or os.environ.get(ETCD, "")
    return all(_is_own_socket(part.strip()) for part in given.split(",") if part.strip())


def _is_own_socket(endpoint: str) -> bool:
    path = endpoint.removeprefix("unix:")
    try:
        return path != endpoint and Path(path.removeprefix("//")).stat().st_uid == os.getuid()
    except (OSError, ValueError):
        return False


def said_of_code(given: bool | None) -> bool | None:
    """What this machine's user says about the code of jobs: ``given``, else the environment variable; None: nothing.

    Raises UsageError when the variable is neither yes nor no.
    """
    return yes_or_no(ENVIRONMENT) if given is None else given


def is_allowed(given: bool | None, *, ours: bool) -> bool | None:
    """True if this machine may run a job's code, False if not; None: it may, where etcd lets only known users write.

    ``ours``: the etcd belongs to a local cluster of this user. ``given``: the caller's choice. Raises UsageError, as
    ``said_of_code``.
    """
    said = said_of_code(given)
    return True if said is None and ours else said


async def may_run_code(given: bool | None, store: EtcdStore, *, ours: bool) -> bool:
    """True if this machine may run the code of jobs in an etcd. Raises UsageError, StoreUnavailable."""
    allowed = is_allowed(given, ours=ours)
    return await store.guards_writes() if allowed is None else allowed
