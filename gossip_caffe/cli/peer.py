"""``gossip-caffe peer``: one machine's part in a job."""

# ruff: noqa: PLC0415 - what is heavy is imported by the command that needs it, so that --help and completion are quick

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gossip_caffe.cli.etcd import endpoints, etcd_option, with_store
from gossip_caffe.cli.output import print_json, print_table, told_when_slow
from gossip_caffe.errors import GossipCaffeError, UsageError

if TYPE_CHECKING:
    from gossip_caffe.membership.etcd_store import EtcdStore
    from gossip_caffe.membership.members import PeerRecord

LEAVE_DEADLINE_S = 30.0

data_root_option = click.option(
    "--data-root",
    "data_roots",
    multiple=True,
    metavar="OLD=NEW",
    help="The job's data below the folder OLD is below NEW on this machine.",
)
from_checkpoint_option = click.option(
    "--from-checkpoint",
    default="",
    metavar="ID",
    help="Go back to this checkpoint, when no peer lives: what was learned after it is trained again.",
)
gpu_option = click.option(
    "--gpu",
    default="",
    metavar="N|auto",
    help="Train on this NVIDIA card, numbered as 'gossip-caffe doctor' shows them; auto: the one with the most free "
    "memory. Default: on the CPU.",
)
job_option = click.option("--job", default="", help="Only peers of this job.")


@click.group()
def peer() -> None:
    """Start, list and stop peers: each is one solver of a job.

    \b
    gossip-caffe peer start --etcd 10.0.0.5:2379 --job mnist
    gossip-caffe peer list --etcd 10.0.0.5:2379
    gossip-caffe peer stop p-3fa9c1 --etcd 10.0.0.5:2379
    """


@peer.command()
@click.option("--job", required=True, help="The job to train, as created with 'job create'.")
@click.option("--name", default="", help="This peer's name; default: a random one.")
@click.option(
    "--listen",
    default="",
    metavar="HOST:PORT",
    help="Where it listens for other peers; port 0: any free one. 0.0.0.0:PORT for all addresses of this machine. "
    "Default: the address with which etcd is reached, any free port.",
)
@click.option(
    "--advertise",
    default="",
    metavar="HOST[:PORT]",
    help="The address that others are told; default: the one it listens on, or with which etcd is reached.",
)
@click.option(
    "--zone",
    default="",
    help="Where this machine is, by any name, for example its rack: partners in the same zone are asked more often.",
)
@click.option(
    "--run-dir",
    default="gossip-caffe-run",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where its events and checkpoints go.",
)
@gpu_option
@data_root_option
@from_checkpoint_option
@click.option("--engine", default="pycaffe", type=click.Choice(["pycaffe", "numpy"]), hidden=True)
@etcd_option
def start(
    job: str,
    name: str,
    listen: str,
    advertise: str,
    zone: str,
    run_dir: Path,
    gpu: str,
    data_roots: tuple[str, ...],
    from_checkpoint: str,
    engine: str,
    etcd: str | None,
) -> None:
    """Join a job with this machine, until it is finished or Ctrl-C.

    It loads the consensus, trains its share of the data, and exchanges weights with the others. Ctrl-C or SIGTERM: it
    finishes what it began, shares it, and leaves. A second Ctrl-C ends it at once; nothing is lost then either.
    When no peer of the job lives any more it goes on from the newest checkpoint.

    \b
    gossip-caffe peer start --etcd 10.0.0.5:2379 --job mnist
    gossip-caffe peer start --etcd 10.0.0.5:2379 --job mnist --gpu 0
    gossip-caffe peer start --etcd 10.0.0.5:2379 --job mnist --listen 0.0.0.0:7100 --advertise gpu3.example:7100
    """
    from gossip_caffe.job.relocation import DataRoot
    from gossip_caffe.peer.options import PeerOptions
    from gossip_caffe.peer.run import run_peer
    from gossip_caffe.solver.device import parse_card

    if gpu:
        parse_card(gpu, "--gpu")  # before anything is asked of etcd
    options = PeerOptions(
        endpoints=endpoints(etcd),
        job=job,
        run_dir=run_dir,
        peer=name,
        listen=listen,
        advertise=advertise,
        engine=engine,
        zone=zone,
        gpu=gpu,
        data_roots=tuple(map(DataRoot.parse, data_roots)),
        from_checkpoint=from_checkpoint,
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
@click.option("--no-wait", is_flag=True, help="Only ask; do not wait until it has left.")
@etcd_option
def stop(name: str, job: str, no_wait: bool, etcd: str | None) -> None:
    """Ask a peer to leave in good order, wherever it runs, and wait until it has left.

    It finishes the batches that it began, shares what it has learned, hands the rest of its data back, and is gone
    within seconds; the other peers go on. A peer that has left already is nothing to do.

    \b
    gossip-caffe peer stop p-3fa9c1 --etcd 10.0.0.5:2379
    """
    click.echo(with_store(etcd, lambda store: _stop(store, name, job, no_wait)))


async def _stop(store: EtcdStore, name: str, job: str, no_wait: bool) -> str:
    """Ask it to leave; returns what is to be said in the end."""
    from gossip_caffe.clock import SystemClock
    from gossip_caffe.membership.keys import JobKeys
    from gossip_caffe.membership.leaving import ask_to_leave, gone

    living = await _records(store, job)
    jobs = [owner for owner, record in living if record.peer == name]
    if len(jobs) > 1:
        raise UsageError(f"several jobs have a peer {name!r} ({', '.join(jobs)})", remedy="give --job")
    asked = await ask_to_leave(store, JobKeys(jobs[0]), name, "peer stop") if jobs else None
    if asked is None:
        known = ", ".join(sorted({record.peer for _, record in living})) or "none"
        return f"no peer {name!r} lives; nothing to do (living: {known})"
    said = f"{name} of job {jobs[0]} (pid {asked.pid} on {asked.host})"
    if no_wait:
        return f"{said} is asked to leave: it shares what it has learned and hands the rest of its data back"
    with told_when_slow(f"{said} is asked to leave; it finishes and shares what it began …"):
        if not await gone(store, JobKeys(jobs[0]), asked, SystemClock(), LEAVE_DEADLINE_S):
            raise GossipCaffeError(
                f"{said} was asked to leave and has not within {LEAVE_DEADLINE_S:.0f} s",
                remedy="look at what it prints; if you kill it, nothing is lost and its data goes to the others",
            )
    return f"{said} has left; its data goes to the others"
