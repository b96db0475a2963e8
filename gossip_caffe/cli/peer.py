"""``gossip-caffe peer``: one machine's part in a job."""

# ruff: noqa: PLC0415 - what is heavy is imported by the command that needs it, so that --help and completion are quick

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gossip_caffe.cli.etcd import endpoints, etcd_option, with_store
from gossip_caffe.cli.output import print_json, print_table
from gossip_caffe.errors import NotFound, UsageError

if TYPE_CHECKING:
    from gossip_caffe.membership.etcd_store import EtcdStore
    from gossip_caffe.membership.members import PeerRecord

job_option = click.option("--job", default="", help="Only peers of this job.")


@click.group()
def peer() -> None:
    """Start, list and stop peers: each is one solver of a job.

    \b
    gossip-caffe peer start --etcd 10.0.0.5:2379 --job mnist --listen 0.0.0.0:7100
    gossip-caffe peer list --etcd 10.0.0.5:2379
    gossip-caffe peer stop p-3fa9c1 --etcd 10.0.0.5:2379
    """


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
    from gossip_caffe.peer.options import PeerOptions
    from gossip_caffe.peer.run import run_peer

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


async def _records(store: EtcdStore, job: str) -> list[tuple[str, PeerRecord]]:
    from gossip_caffe.membership.jobs import list_jobs, load_job
    from gossip_caffe.membership.keys import JobKeys
    from gossip_caffe.membership.members import PeerRecord

    jobs = [(await load_job(store, job)).name] if job else await list_jobs(store)
    found = []
    for name in jobs:
        for item in (await store.list(JobKeys(name).peers)).items:
            try:
                found.append((name, PeerRecord.from_json(item.value)))
            except ValueError:
                continue  # somebody else's key, or of a version that we cannot read
    return found


@peer.command("list")
@job_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@etcd_option
def list_(job: str, as_json: bool, etcd: str | None) -> None:
    """List the living peers of all jobs, or of one.

    \b
    gossip-caffe peer list --etcd 10.0.0.5:2379 --job mnist
    """
    records = with_store(etcd, lambda store: _records(store, job))
    if as_json:
        print_json([{"job": name, **json.loads(record.to_json())} for name, record in records])
        return
    rows = [
        (name, record.peer, record.state, record.device, record.address, record.host, str(record.pid))
        for name, record in records
    ]
    print_table(("JOB", "PEER", "STATE", "DEVICE", "ADDRESS", "HOST", "PID"), rows)


@peer.command()
@click.argument("name")
@job_option
@etcd_option
def stop(name: str, job: str, etcd: str | None) -> None:
    """Ask a peer of this machine to leave in good order.

    \b
    gossip-caffe peer stop p-3fa9c1 --etcd 10.0.0.5:2379
    """
    found = [
        (owner, record)
        for owner, record in with_store(etcd, lambda store: _records(store, job))
        if record.peer == name
    ]
    if not found:
        raise NotFound(f"no living peer {name!r}", remedy="see 'gossip-caffe peer list'")
    if len(found) > 1:
        jobs = ", ".join(owner for owner, _ in found)
        raise UsageError(f"several jobs have a peer {name!r} ({jobs})", remedy="give --job")
    record = found[0][1]
    if record.host != socket.gethostname():
        raise NotFound(
            f"peer {name!r} runs on {record.host}, not here", remedy="stop it there: it leaves on SIGTERM"
        )
    if not _is_peer(record.pid):
        raise NotFound(
            f"peer {name!r} (pid {record.pid}) has ended; its lease has not yet",
            remedy="there is nothing to do",
        )
    try:
        os.kill(record.pid, signal.SIGTERM)
    except PermissionError:
        raise UsageError(
            f"peer {name!r} (pid {record.pid}) is another user's", remedy="stop it as that user"
        ) from None
    click.echo(f"{name} (pid {record.pid}) was asked to leave; it shares what it has learned first")


def _is_peer(pid: int) -> bool:
    """Whether that process is a peer: its number may have gone to another program since."""
    try:
        return b"\0peer\0start\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
