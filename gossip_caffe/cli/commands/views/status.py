"""``gossip-caffe status``: show a job, wherever its peers are."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from gossip_caffe.cli.options.etcd import EtcdPlace, etcd_options, with_store
from gossip_caffe.cli.options.job import job_option
from gossip_caffe.cli.terminal.output import said_on_stderr

if TYPE_CHECKING:
    from gossip_caffe.membership.etcd.etcd_store import EtcdStore


@click.command()
@click.option(
    "--watch", is_flag=True, help="Go on until the job is finished or Ctrl-C: a table that is drawn again."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON; with --watch one object a line, every second."
)
@job_option
@etcd_options
def status(watch: bool, as_json: bool, job: str, place: EtcdPlace) -> None:
    """Show a job: its progress, and each living peer with its speed, loss, share of the data and last exchange.

    The command reads etcd, contacts no peer, and changes nothing. Without a terminal --watch prints a line every 5 s,
    and one for each peer that joins, leaves or is gone.

    \b
    gossip-caffe status
    gossip-caffe status --job mnist --etcd 10.0.0.5:2379 --watch
    gossip-caffe status --json
    """
    try:
        with_store(place, lambda store: _show(store, job, watch=watch, as_json=as_json))
    except KeyboardInterrupt:
        if not watch:
            raise


async def _show(store: EtcdStore, job: str, *, watch: bool, as_json: bool) -> None:
    from gossip_caffe.cli.top.lines import follow_as_json, follow_as_lines, print_record, print_snapshot
    from gossip_caffe.cli.top.watching import watching
    from gossip_caffe.observe.log.ignored import discard_note

    # A record that is ignored is a line on stderr. A watched job has it among its events.
    looked = await watching(store, job, discard_note if watch else said_on_stderr)
    if not watch:
        (print_record if as_json else print_snapshot)(looked.watched)
    elif as_json:
        await follow_as_json(looked)
    elif sys.stdout.isatty():
        from gossip_caffe.cli.top.live_table import follow_as_table
        from gossip_caffe.cli.top.restoring import restored

        await restored(follow_as_table(looked))
    else:
        await follow_as_lines(looked)
