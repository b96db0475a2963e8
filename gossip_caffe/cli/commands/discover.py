"""``gossip-caffe discover``: tell Prometheus where the peers of a job serve their metrics."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import click

from gossip_caffe.cli.options.etcd import EtcdPlace, endpoints, etcd_options
from gossip_caffe.cli.options.job import job_option
from gossip_caffe.cli.terminal.output import print_json, said_on_stderr
from gossip_caffe.cli.terminal.streams import never_wait_for_readers, say

if TYPE_CHECKING:
    from gossip_caffe.membership.discovery import Discovery
    from gossip_caffe.membership.members import MembersView
    from gossip_caffe.security.security import Security

LISTEN = "127.0.0.1:9465"


@click.command()
@job_option
@click.option(
    "--listen",
    default=LISTEN,
    show_default=True,
    metavar="HOST:PORT",
    help="The address at which the list is served; port 0: any free port.",
)
@click.option("--once", "--json", "once", is_flag=True, help="Print the list once, as JSON, and end.")
@etcd_options
def discover(job: str, listen: str, once: bool, place: EtcdPlace) -> None:
    """Serve the list of a job's peers to Prometheus, as HTTP service discovery.

    Prometheus asks http://HOST:PORT/targets (http_sd_configs) and scrapes each peer in the list, with the labels
    gossip_caffe_job, peer, host, device and zone. A peer that died stays in the list for five minutes. The peers of a
    local cluster have no port: their metrics are passed on.

    \b
    gossip-caffe discover --job mnist --etcd 10.0.0.5:2379
    gossip-caffe discover --once
    """
    asyncio.run(_discover(job, endpoints(place), place.security, listen, once))


async def _discover(job: str, where: tuple[str, ...], security: Security, listen: str, once: bool) -> None:
    from gossip_caffe.background import within
    from gossip_caffe.clock import SystemClock
    from gossip_caffe.membership.discovery import Discovery, Place
    from gossip_caffe.membership.etcd.etcd_store import EtcdStore
    from gossip_caffe.membership.jobs import job_or_only_one
    from gossip_caffe.membership.keys import JobKeys
    from gossip_caffe.membership.members import MembersView
    from gossip_caffe.system.host import host_name

    clock = SystemClock()
    store = EtcdStore(where, clock, random.Random(), security=security)
    try:
        job = (await job_or_only_one(store, job)).name
        view = MembersView(store, JobKeys(job), said_on_stderr)
        place = Place(host_name(), store.sockets)
        discovery = Discovery(store, job, view, place, clock, lambda line: say(line, err=True))
        shown = _once(view, discovery) if once else _served(discovery, listen, job)
        async with within(view.follow(), shown) as (following, showing):
            await asyncio.wait((following, showing), return_when=asyncio.FIRST_COMPLETED)
            if not showing.done():
                following.result()  # the watch has ended, with an error that says why
    finally:
        await store.close()


async def _once(view: MembersView, discovery: Discovery) -> None:
    await view.known.wait()
    print_json([target.to_record() for target in await discovery.targets()])


async def _served(discovery: Discovery, listen: str, job: str) -> None:
    """Serve the list until Ctrl-C."""
    from gossip_caffe.clock import SystemClock
    from gossip_caffe.membership.discovery import TARGETS
    from gossip_caffe.observe.metrics.http import HttpServer

    never_wait_for_readers()
    server = HttpServer(discovery.answer, SystemClock(), "--listen")
    port = await server.start(listen)
    try:
        host = listen.rpartition(":")[0]
        say(f"job {job}: Prometheus finds the peers at http://{host}:{port}{TARGETS} (http_sd_configs)")
        await asyncio.Event().wait()
    finally:
        await server.stop()
