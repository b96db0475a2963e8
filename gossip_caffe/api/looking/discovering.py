"""The peers of a job as targets of Prometheus: the list of now, and a server of the list."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gossip_caffe.background import within
from gossip_caffe.clock import SystemClock
from gossip_caffe.membership.discovery import TARGETS, Discovery, Place, Target
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import MembersView
from gossip_caffe.observe.log.ignored import Note
from gossip_caffe.observe.metrics.http import HttpServer
from gossip_caffe.system.host import host_name

T = TypeVar("T")
Say = Callable[[str], None]


async def targets_of(store: EtcdStore, job: str, say: Say, ignored: Note) -> list[Target]:
    """Return the peers that Prometheus can scrape, sorted by name. ``say`` is told why each other peer is none."""

    async def listed(view: MembersView, discovery: Discovery) -> list[Target]:
        await view.known.wait()
        return await discovery.targets()

    return await _while_followed(store, job, say, ignored, listed)


async def serve_targets(
    store: EtcdStore, job: str, listen: str, on_address: Say, say: Say, ignored: Note
) -> None:
    """Serve the list at ``listen``, "host:port", until it is cancelled.

    ``on_address`` is told the URL of the list; port 0 is any free one. Raises StoreError when the peers cannot be
    followed any more, and the errors of ``HttpServer.start``.
    """

    async def served(_: MembersView, discovery: Discovery) -> None:
        server = HttpServer(discovery.answer, SystemClock(), "--listen")
        port = await server.start(listen)
        try:
            on_address(f"http://{listen.rpartition(':')[0]}:{port}{TARGETS}")
            await asyncio.Event().wait()
        finally:
            await server.stop()

    await _while_followed(store, job, say, ignored, served)


async def _while_followed(
    store: EtcdStore,
    job: str,
    say: Say,
    ignored: Note,
    work: Callable[[MembersView, Discovery], Awaitable[T]],
) -> T:
    view = MembersView(store, JobKeys(job), ignored)
    discovery = Discovery(store, job, view, Place(host_name(), store.sockets), SystemClock(), say)
    async with within(view.follow(), work(view, discovery)) as (following, working):
        await asyncio.wait((following, working), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            following.result()  # the watch has ended, with an error that says why
        return await working
