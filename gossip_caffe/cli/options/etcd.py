"""The options --etcd and --name: the endpoints of etcd, and a client for one command."""

# ruff: noqa: PLC0415 - heavy modules are imported when they are needed, so that --help and completion are quick

from __future__ import annotations

import asyncio
import functools
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from gossip_caffe.errors import NotFound, UsageError

if TYPE_CHECKING:
    from gossip_caffe.membership.etcd.etcd_store import EtcdStore

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class EtcdPlace:
    """The place of etcd, as the options of a command give it.

    ``etcd``: the endpoints; None: not given. ``cluster``: the name of a local cluster; "": not given.
    """

    etcd: str | None = None
    cluster: str = ""

    @property
    def is_local(self) -> bool:
        """True if the etcd is that of a local cluster."""
        return bool(self.cluster) or is_local(self.etcd)


def etcd_options(command: Command) -> Command:
    """Add ``--etcd`` and ``--name`` to a command, which gets them as ``place``, an EtcdPlace."""
    return _with_place(command, "--name")


def etcd_options_of_peer(command: Command) -> Command:
    """Add ``--etcd`` and ``--cluster``: for ``peer start``, whose ``--name`` is that of the peer."""
    return _with_place(command, "--cluster")


def _with_place(command: Command, cluster_option: str) -> Command:
    @functools.wraps(command)
    def with_place(*arguments: Any, etcd: str | None, cluster: str, **options: Any) -> Any:
        return command(*arguments, place=EtcdPlace(etcd, cluster), **options)

    name = click.option(
        cluster_option,
        "cluster",
        default="",
        metavar="CLUSTER",
        help="The local cluster of this name, instead of --etcd.",
    )
    etcd = click.option(
        "--etcd",
        metavar="HOST:PORT[,…]",
        help="The address of etcd. Default: $GOSSIP_CAFFE_ETCD, else the etcd of the local cluster.",
    )
    return cast(Command, name(etcd(with_place)))


def endpoints(place: EtcdPlace) -> tuple[str, ...]:
    """Return the endpoints to use: those of ``--etcd``, of ``--name``, of the environment, or of the default cluster.

    Raises UsageError when no etcd is given and the default cluster is not up, or when both options are given; NotFound
    when the named cluster is not up.
    """
    from gossip_caffe.cluster.state.folder import DEFAULT_NAME, ClusterState
    from gossip_caffe.cluster.supervision.control import ask, clusters_that_are_up
    from gossip_caffe.membership.etcd.etcd_channel import parse_endpoints

    if place.cluster and place.etcd:
        raise UsageError("--name and --etcd name two places of etcd", remedy="give one of them")
    if not place.cluster and (given := place.etcd or os.environ.get("GOSSIP_CAFFE_ETCD")):
        return parse_endpoints(given)
    try:
        return parse_endpoints(ask(ClusterState(place.cluster or DEFAULT_NAME), {"do": "status"})["etcd"])
    except NotFound:
        if place.cluster:
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


def with_store(place: EtcdPlace, work: Callable[[EtcdStore], Awaitable[T]]) -> T:
    """Run ``work`` with a client of etcd, and return its result. Raises StoreUnavailable when etcd does not answer."""
    from gossip_caffe.clock import SystemClock
    from gossip_caffe.membership.etcd.etcd_store import EtcdStore

    where = endpoints(place)

    async def run() -> T:
        store = EtcdStore(where, SystemClock(), random.Random())
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())
