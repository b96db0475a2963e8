"""The options --etcd, --name and those of an identity: the endpoints of etcd, and a client for one command."""

# ruff: noqa: PLC0415 - heavy modules are imported when they are needed, so that --help and completion are quick

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from gossip_caffe.cli.options.security import security_options
from gossip_caffe.cli.terminal.output import said_on_stderr
from gossip_caffe.security.security import PLAIN, Security

if TYPE_CHECKING:
    from gossip_caffe.api.connection import Connection
    from gossip_caffe.membership.etcd.etcd_store import EtcdStore

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class EtcdPlace:
    """The place of etcd, as the options of a command give it.

    ``etcd``: the endpoints; None: not given. ``cluster``: the name of a local cluster; "": not given. ``security``: the
    identity with which etcd and peers are reached.
    """

    etcd: str | None = None
    cluster: str = ""
    security: Security = PLAIN

    @property
    def is_local(self) -> bool:
        """True if only this user can write to the etcd: it is that of a local cluster, and has no port.

        A local cluster may also use an etcd of other machines, or let its own listen for them.
        """
        from gossip_caffe.api import places

        return places.only_ours(self.etcd, self.cluster, self.security)


def etcd_options(command: Command) -> Command:
    """Add ``--etcd``, ``--name`` and the options of an identity to a command, which gets an EtcdPlace, ``place``."""
    return _with_place(command, "--name")


def etcd_options_of_peer(command: Command) -> Command:
    """Add ``--etcd`` and ``--cluster``: for ``peer start``, whose ``--name`` is that of the peer."""
    return _with_place(command, "--cluster")


def _with_place(command: Command, cluster_option: str) -> Command:
    @functools.wraps(command)
    def with_place(
        *arguments: Any, etcd: str | None, cluster: str, security: Security, **options: Any
    ) -> Any:
        return command(*arguments, place=EtcdPlace(etcd, cluster, security), **options)

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
        help="The address of etcd; https://HOST:PORT with certificates. Default: $GOSSIP_CAFFE_ETCD, else the etcd of "
        "the local cluster.",
    )
    return cast(Command, name(etcd(security_options(with_place))))


def endpoints(place: EtcdPlace) -> tuple[str, ...]:
    """Return the endpoints to use: ``places.endpoints``, imported only when a command needs them."""
    from gossip_caffe.api import places

    return places.endpoints(place.etcd, place.cluster, place.security)


def is_local(etcd: str | None) -> bool:
    """True if the etcd belongs to a local cluster of this user: ``places.is_local``."""
    from gossip_caffe.api import places

    return places.is_local(etcd)


def with_store(place: EtcdPlace, work: Callable[[EtcdStore], Awaitable[T]]) -> T:
    """Run ``work`` with a client of etcd, and return its result. Raises StoreUnavailable when etcd does not answer."""
    from gossip_caffe.clock import SystemClock
    from gossip_caffe.membership.etcd.etcd_store import EtcdStore

    where = endpoints(place)

    async def run() -> T:
        store = EtcdStore(where, SystemClock(), random.Random(), security=place.security)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def with_connection(place: EtcdPlace, job: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Run ``work`` with the API's view of a job ("": the only one). Records that are not believed are told on stderr.

    Raises StoreUnavailable when etcd does not answer.
    """
    from gossip_caffe.api.connection import Connection

    return with_store(place, lambda store: work(Connection(store, job, said_on_stderr, ours=place.is_local)))
