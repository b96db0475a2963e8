"""``gossip-caffe peer``: one machine's part in a job."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import click

from gossip_caffe.cli.etcd import endpoints, etcd_option, with_store
from gossip_caffe.cli.output import print_json, print_table
from gossip_caffe.errors import NotFound
from gossip_caffe.membership.etcd_store import EtcdStore
from gossip_caffe.membership.jobs import list_jobs
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import PeerRecord


@click.group()
def peer() -> None:
    """Start, list and stop peers: each is one solver of a job."""


@peer.command()
@click.option("--job", required=True, help="The job to train, as created with 'job create'.")
@click.option("--name", default="", help="This peer's name; default: a random one.")
@click.option(
    "--listen",
    default="127.0.0.1:0",
    show_default=True,
    metavar="HOST:PORT",
    help="Where other peers reach it; port 0: any free one. 0.0.0.0:PORT for all of this machine's addresses.",
)
@click.option(
    "--advertise",
    default="",
    metavar="HOST:PORT",
    help="The address that others are told; default: the one with which etcd is reached.",
)
@click.option(
    "--run-dir",
    default="gossip-caffe-run",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where its events and checkpoints go.",
)
@click.option("--engine", default="pycaffe", type=click.Choice(["pycaffe", "numpy"]), hidden=True)
@etcd_option
def start(
    job: str, name: str, listen: str, advertise: str, run_dir: Path, engine: str, etcd: str | None
) -> None:
    """Join a job with this machine, until it is finished or Ctrl-C.

    It loads the consensus, trains its share of the data, and exchanges weights with the others. Ctrl-C or SIGTERM: it
    finishes what it began, shares it, and leaves. A second Ctrl-C ends it at once; nothing is lost then either.

    \b
    gossip-caffe peer start --etcd 10.0.0.5:2379 --job mnist --listen 0.0.0.0:7100
    """
    from gossip_caffe.peer.options import PeerOptions  # noqa: PLC0415 - heavy, and only this command needs it
    from gossip_caffe.peer.run import run_peer  # noqa: PLC0415

    options = PeerOptions(
        endpoints=endpoints(etcd),
        job=job,
        run_dir=run_dir,
        peer=name,
        listen=listen,
        advertise=advertise,
        engine=engine,
    )
    run_peer(options, click.echo)


async def _records(store: EtcdStore) -> list[tuple[str, PeerRecord]]:
    found = []
    for name in await list_jobs(store):
        for item in (await store.list(JobKeys(name).peers)).items:
            found.append((name, PeerRecord.from_json(item.value)))
    return found


@peer.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@etcd_option
def list_(as_json: bool, etcd: str | None) -> None:
    """List the living peers of all jobs."""
    records = with_store(etcd, _records)
    if as_json:
        print_json([{"job": job, **json.loads(record.to_json())} for job, record in records])
        return
    rows = [
        (job, record.peer, record.state, record.device, record.address, record.host, str(record.pid))
        for job, record in records
    ]
    print_table(("JOB", "PEER", "STATE", "DEVICE", "ADDRESS", "HOST", "PID"), rows)


@peer.command()
@click.argument("name")
@etcd_option
def stop(name: str, etcd: str | None) -> None:
    """Ask a peer of this machine to leave in good order."""
    here = socket.gethostname()
    records = [record for _, record in with_store(etcd, _records) if record.peer == name]
    if not records:
        raise NotFound(f"no living peer {name!r}", remedy="see 'gossip-caffe peer list'")
    if records[0].host != here:
        raise NotFound(
            f"peer {name!r} runs on {records[0].host}, not here", remedy="stop it there: it leaves on SIGTERM"
        )
    os.kill(records[0].pid, signal.SIGTERM)
    click.echo(f"{name} (pid {records[0].pid}) was asked to leave; it shares what it has learned first")
