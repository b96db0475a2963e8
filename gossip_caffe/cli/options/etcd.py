"""The --etcd option: the endpoints of etcd, and a client for one command."""

# ruff: noqa: PLC0415 - heavy modules are imported when they are needed, so that --help and completion are quick

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gossip_caffe.errors import NotFound, UsageError

if TYPE_CHECKING:
    from gossip_caffe.membership.etcd.etcd_store import EtcdStore

T = TypeVar("T")

etcd_option: Callable[[Any], Any] = click.option(
    "--etcd",
    metavar="HOST:PORT[,…]",
    help="The address of etcd. Default: $GOSSIP_CAFFE_ETCD, else the etcd of the local cluster.",
)


def endpoints(etcd: str | None, cluster: str = "") -> tuple[str, ...]:
    """Return the endpoints to use. ``cluster``: the local cluster by name; "": the default one, if no etcd is given.

    Raises UsageError when no etcd is given and no local cluster is up, or when both are given.
    """
    from gossip_caffe.cluster.state.folder import ClusterState
    from gossip_caffe.cluster.supervision.control import ask
    from gossip_caffe.membership.etcd.etcd_channel import parse_endpoints

    if cluster and etcd:
        raise UsageError("--name and --etcd name two places of etcd", remedy="give one of them")
    if not cluster and (given := etcd or os.environ.get("GOSSIP_CAFFE_ETCD")):
        return parse_endpoints(given)
    try:
        return parse_endpoints(ask(ClusterState(cluster or "local"), {"do": "status"})["etcd"])
    except NotFound:
        if cluster:
            raise
        raise UsageError(
            "no etcd is given and no local cluster is up",
            remedy="give --etcd HOST:PORT, or start a cluster with 'gossip-caffe cluster up'",
        ) from None


def is_local(etcd: str | None) -> bool:
    """True if every endpoint is a Unix socket of this user, or none is given: the etcd of a local cluster."""
    given = etcd or os.environ.get("GOSSIP_CAFFE_ETCD", "")
    return all(_is_own_socket(part.strip()) for part in given.split(",") if part.strip())


def _is_own_socket(endpoint: str) -> bool:
    path = endpoint.removeprefix("unix:")
    try:
        return path != endpoint and Path(path.removeprefix("//")).stat().st_uid == os.getuid()
    except (OSError, ValueError):
        return False


def with_store(etcd: str | None, work: Callable[[EtcdStore], Awaitable[T]]) -> T:
    """Run ``work`` with a client of etcd, and return its result. Raises StoreUnavailable when etcd does not answer."""
    from gossip_caffe.clock import SystemClock
    from gossip_caffe.membership.etcd.etcd_store import EtcdStore

    where = endpoints(etcd)

    async def run() -> T:
        store = EtcdStore(where, SystemClock(), random.Random())
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())
