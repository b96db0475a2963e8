"""``gossip-caffe discover``: tell Prometheus where the peers of a job serve their metrics."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gossip_caffe.cli.options.etcd import EtcdPlace, etcd_options, with_connection
from gossip_caffe.cli.options.job import job_option
from gossip_caffe.cli.terminal.output import print_json, said_on_stderr
from gossip_caffe.cli.terminal.streams import never_wait_for_readers, say

if TYPE_CHECKING:
    from gossip_caffe.api.connection import Connection

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
    with_connection(place, job, lambda connection: _discovered(connection, listen, once))


async def _discovered(connection: Connection, listen: str, once: bool) -> None:
    from gossip_caffe.api.looking.discovering import serve_targets

    if once:
        found = await connection.targets(_told)
        print_json([target.to_record() for target in found])
        return
    never_wait_for_readers()
    job = (await connection.spec()).name

    def at(url: str) -> None:
        say(f"job {job}: Prometheus finds the peers at {url} (http_sd_configs)")

    await serve_targets(connection.store, job, listen, at, _told, said_on_stderr)


def _told(line: str) -> None:
    say(line, err=True)
