"""``gossip-caffe shards``: show which peer trains which data of a job."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gossip_caffe.cli.options.etcd import EtcdPlace, etcd_options, with_store
from gossip_caffe.cli.options.job import job_option
from gossip_caffe.cli.terminal.output import print_json, print_table

if TYPE_CHECKING:
    from gossip_caffe.membership.etcd.etcd_store import EtcdStore
    from gossip_caffe.shards.overview import EpochOverview, Overview

HEADINGS = ("EPOCH", "PEER", "OWNED", "DONE", "LEFT", "OWNS CHUNKS")
SHOWN_CHUNKS = 8


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
    name, found = with_store(place, lambda store: _read(store, job))
    if as_json:
        print_json(_record(name, found))
        return
    rows = [row for epoch in found.open for row in _rows(epoch)]
    print_table(HEADINGS, rows, _headline(name, found))


async def _read(store: EtcdStore, job: str) -> tuple[str, Overview]:
    """Return the job's name and its ledger."""
    from gossip_caffe.membership.jobs import job_or_only_one
    from gossip_caffe.membership.keys import JobKeys
    from gossip_caffe.shards.epochs import Epochs
    from gossip_caffe.shards.overview import read_overview

    spec = await job_or_only_one(store, job)
    return spec.name, await read_overview(store, JobKeys(spec.name), Epochs.of(spec))


def _headline(job: str, found: Overview) -> str:
    if found.finished:
        return f"job {job}: all {found.epochs} epochs are finished; no chunk is left"
    return f"job {job}: {found.folded} of {found.epochs} epochs are finished"


def _rows(epoch: EpochOverview) -> list[tuple[str, ...]]:
    """Return one row for the epoch, then one row for each peer that owns or has done chunks of it."""
    number = str(epoch.epoch)
    totals = (str(epoch.owned_chunks), str(epoch.done_chunks), str(epoch.left_chunks))
    rows: list[tuple[str, ...]] = [(number, f"all {epoch.chunks} chunks", *totals, "")]
    for peer in epoch.peers:
        owned, done = epoch.owned.get(peer, ()), epoch.done.get(peer, ())
        shown = " ".join(map(str, owned[:SHOWN_CHUNKS])) + (" …" if len(owned) > SHOWN_CHUNKS else "")
        rows.append((number, peer, str(len(owned)), str(len(done)), "", shown))
    return rows


def _record(job: str, found: Overview) -> dict[str, Any]:
    return {
        "job": job,
        "epochs": found.epochs,
        "epochs_finished": found.folded,
        "finished": found.finished,
        "open": [
            {
                "epoch": epoch.epoch,
                "chunks": epoch.chunks,
                "owned": epoch.owned_chunks,
                "done": epoch.done_chunks,
                "left": epoch.left_chunks,
                "peers": {
                    peer: {"owned": epoch.owned.get(peer, ()), "done": epoch.done.get(peer, ())}
                    for peer in epoch.peers
                },
            }
            for epoch in found.open
        ],
    }
