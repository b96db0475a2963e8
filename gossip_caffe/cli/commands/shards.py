"""``gossip-caffe shards``: show which peer trains which data of a job."""

from __future__ import annotations

import click

from gossip_caffe.cli.options.etcd import EtcdPlace, etcd_options, with_connection
from gossip_caffe.cli.options.job import job_option
from gossip_caffe.cli.terminal.output import print_json, print_table

HEADINGS = ("EPOCH", "PEER", "OWNED", "DONE", "LEFT", "OWNS CHUNKS")


@click.group()
def shards() -> None:
    """Show which peer trains which data of a job.

    \b
    gossip-caffe shards show --job mnist --etcd 10.0.0.5:2379
    """


@shards.command()
@job_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every chunk's number.")
@etcd_options
def show(job: str, as_json: bool, place: EtcdPlace) -> None:
    """Show each open epoch's chunks: owned by which peer, done, and left.

    The command reads etcd, contacts no peer, and changes nothing. etcd keeps no chunks of finished epochs, so only
    their number is shown.

    \b
    gossip-caffe shards show
    gossip-caffe shards show --job mnist --etcd 10.0.0.5:2379 --json
    """
    found = with_connection(place, job, lambda connection: connection.shards())
    if as_json:
        print_json(found.to_record())
    else:
        print_table(HEADINGS, found.rows(), found.headline())
