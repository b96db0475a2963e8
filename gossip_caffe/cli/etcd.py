"""The --etcd option: where the store is, and a client of it for one command."""

# ruff: noqa: PLC0415 - what is heavy is imported when it is needed, so that --help and completion are quick

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gossip_caffe.errors import NotFound, UsageError

if TYPE_CHECKING:
    from gossip_caffe.membership.etcd_store import EtcdStore

T = TypeVar("T")

etcd_option: Callable[[Any], Any] = click.option(
    "--etcd",
    metavar="HOST:PORT[,…]",
    help="Where etcd is; default: $GOSSIP_CAFFE_ETCD, else the etcd of the local cluster.",
)


def endpoints(etcd: str | None) -> tuple[str, ...]:
    """The endpoints to use. Raises UsageError when none is given and no local cluster is up."""
    from gossip_caffe.cluster.control import ask
    from gossip_caffe.cluster.state import ClusterState
    from gossip_caffe.membership.etcd_channel import parse_endpoints

    if given := etcd or os.environ.get("GOSSIP_CAFFE_ETCD"):
        return parse_endpoints(given)
    try:
        return parse_endpoints(ask(ClusterState("local"), {"do": "status"})["etcd"])
    except NotFound:
        raise UsageError(
            "no etcd is given and no local cluster is up",
            remedy="give --etcd HOST:PORT, or start a cluster with 'gossip-caffe cluster up'",
        ) from None


def with_store(etcd: str | None, work: Callable[[EtcdStore], Awaitable[T]]) -> T:
    """Run ``work`` with a store. Raises StoreUnavailable when etcd does not answer."""
    from gossip_caffe.clock import SystemClock
    from gossip_caffe.membership.etcd_store import EtcdStore

    where = endpoints(etcd)

    async def run() -> T:
        store = EtcdStore(where, SystemClock(), random.Random())
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())
