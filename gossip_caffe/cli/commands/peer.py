"""``gossip-caffe peer``: start, list and stop the peers of a job."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gossip_caffe.cli.options.allow_code import allow_code_option, is_allowed
from gossip_caffe.cli.options.data_root import data_root_option
from gossip_caffe.cli.options.etcd import (
    EtcdPlace,
    endpoints,
    etcd_options,
    etcd_options_of_peer,
    with_connection,
)
from gossip_caffe.cli.options.event_log import EventLogOptions, event_log_options
from gossip_caffe.cli.options.grace import grace_option
from gossip_caffe.cli.options.metrics import metrics_of, metrics_option
from gossip_caffe.cli.terminal.output import print_json, print_table, told_when_slow
from gossip_caffe.cli.terminal.streams import never_wait_for_readers, say
from gossip_caffe.errors import NotFound, UsageError
from gossip_caffe.system.signals import left_on_signals

if TYPE_CHECKING:
    from gossip_caffe.api.connection import Connection
    from gossip_caffe.api.values.views import Peers

from_checkpoint_option = click.option(
    "--from-checkpoint",
    default="",
    metavar="ID",
    help="Go back to this checkpoint, when no peer is alive. The data that was trained after it is trained again.",
)
gpu_option = click.option(
    "--gpu",
    default="",
    metavar="N|auto",
    help="Train on this NVIDIA GPU, by its number in 'gossip-caffe doctor'; auto: the GPU with the most free memory. "
    "Default: train on the CPU.",
)
job_option = click.option("--job", default="", help="Only peers of this job.")


@click.group()
def peer() -> None:
    """Start, list and stop peers. A peer is one solver that trains a job together with the other peers.

    \b
    gossip-caffe peer start --etcd https://10.0.0.5:2379 --tls-dir tls --job mnist
    gossip-caffe peer list --etcd 10.0.0.5:2379
    gossip-caffe peer stop p-3fa9c1 --etcd 10.0.0.5:2379
    """


@peer.command()
@click.option(
    "--job", default="", help="The job to train, created with 'job create'.  [default: the only one in etcd]"
)
@click.option(
    "--name", default="", help="This peer's name. Default: one of its certificate, else a random name."
)
@click.option(
    "--listen",
    default="",
    metavar="HOST:PORT",
    help="The address at which this peer listens for other peers; port 0: any free port; host 0.0.0.0: all addresses "
    "of this machine. Default: the address from which this machine reaches etcd, and any free port.",
)
@click.option(
    "--advertise",
    default="",
    metavar="HOST[:PORT]",
    help="The address at which other peers reach this one. Default: the address of --listen, or the address from which "
    "this machine reaches etcd.",
)
@metrics_option(
    "Default: a free port on loopback; with the etcd of a local cluster, a Unix socket that only you can open."
)
@click.option(
    "--transport",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "mpi", "grpc"]),
    help="The way of weights between peers that one mpirun or mpiexec has started. auto: by MPI if mpi4py is "
    "installed; mpi: refuse to start without it; grpc: never by MPI. Weights to any other peer go over gRPC.",
)
@click.option(
    "--zone",
    default="",
    help="Any name for the place of this machine, for example its rack. Peers of one zone exchange more often.",
)
@click.option(
    "--run-dir",
    default="gossip-caffe-run",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The folder for this peer's events and checkpoints.",
)
@event_log_options
@click.option("--events-dir", type=click.Path(path_type=Path), hidden=True)
@gpu_option
@data_root_option
@from_checkpoint_option
@allow_code_option
@click.option("--engine", default="pycaffe", type=click.Choice(["pycaffe", "numpy"]), hidden=True)
@click.option("--snapshots", is_flag=True, hidden=True, help="Write exact snapshots for 'train' to collect.")
@click.option("--overseer-fd", default=-1, hidden=True)
@click.option("--script-fd", default=-1, hidden=True, help="For gossip_caffe.join: a script is the solver.")
@click.option("--script-device", default="", hidden=True)
@click.option("--own-data", is_flag=True, hidden=True)
@grace_option(
    "The time from the request to leave to the end of this process. Chunks that are not settled by then are trained "
    "again by other peers."
)
@click.option(
    "--wait-for-etcd",
    "wait_for_etcd_s",
    default=0.0,
    metavar="SECONDS",
    type=click.FloatRange(0),
    help="Wait so long for an etcd that does not answer yet. Default: do not wait.",
)
@click.option(
    "--wait-for-job",
    "wait_for_job_s",
    default=0.0,
    metavar="SECONDS",
    type=click.FloatRange(0),
    help="Wait so long for a job that is not created yet. Default: do not wait.",
)
@click.option(
    "--preemption-url",
    default="",
    metavar="URL",
    help="Leave when this metadata endpoint (http://…) has a notice that the machine is taken away: HTTP 200 with a "
    "body other than NONE or FALSE. It is asked every 5 s.",
)
@etcd_options_of_peer
def start(
    job: str,
    name: str,
    listen: str,
    advertise: str,
    metrics_listen: str,
    transport: str,
    zone: str,
    run_dir: Path,
    event_log: EventLogOptions,
    events_dir: Path | None,
    gpu: str,
    data_roots: tuple[str, ...],
    from_checkpoint: str,
    allow_code: bool | None,
    engine: str,
    snapshots: bool,
    overseer_fd: int,
    script_fd: int,
    script_device: str,
    own_data: bool,
    grace_s: float,
    wait_for_etcd_s: float,
    wait_for_job_s: float,
    preemption_url: str,
    place: EtcdPlace,
) -> None:
    """Join a job as a new peer, and train until the job is finished or until Ctrl-C.

    The peer loads the consensus, trains its shard of the data, and exchanges weights with other peers. When no other
    peer is alive, it continues from the newest checkpoint. At Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 it finishes the
    batches that it began, shares its weights, and leaves. A second Ctrl-C ends it at once; no data is lost then
    either. The exit code is 0 when the job is finished, and 75 when the peer left before.

    \b
    gossip-caffe peer start --etcd https://10.0.0.5:2379 --tls-dir tls --job mnist
    gossip-caffe peer start --etcd https://10.0.0.5:2379 --tls-dir tls --job mnist --gpu 0
    gossip-caffe peer start --etcd 10.0.0.5:2379 --insecure --listen 0.0.0.0:7100 --advertise gpu3.example:7100
    mpirun --enable-recovery --bind-to none -n 4 gossip-caffe peer start --etcd 10.0.0.5:2379 --insecure
    """
    with left_on_signals():
        from gossip_caffe.job.relocation import DataRoot
        from gossip_caffe.peer.core.options import PeerOptions
        from gossip_caffe.peer.process import run_peer
        from gossip_caffe.solver.gpu.device import parse_gpu

        if gpu:
            parse_gpu(gpu, "--gpu")  # a mistake is reported before etcd is contacted
        options = PeerOptions(
            endpoints=endpoints(place),
            security=place.security,
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
            allow_code=is_allowed(allow_code, ours=place.is_local),
            events_dir=events_dir,
            snapshots=snapshots,
            grace_s=grace_s,
            wait_for_etcd_s=wait_for_etcd_s,
            wait_for_job_s=wait_for_job_s,
            preemption_url=preemption_url,
            overseer_fd=overseer_fd,
            script_fd=script_fd,
            script_device=script_device,
            own_data=own_data,
            event_log_bytes=event_log.size_bytes,
            event_log_part_bytes=event_log.part_bytes,
            tensorboard=event_log.tensorboard,
            metrics_listen=metrics_of(metrics_listen, 1),
            transport=transport,
        )
        never_wait_for_readers()
        sys.exit(run_peer(options, say))


def _living(connection: Connection, job: str) -> Awaitable[Peers]:
    return connection.peers(of_all_jobs=not job)


@peer.command("list")
@job_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@etcd_options
def list_(job: str, as_json: bool, place: EtcdPlace) -> None:
    """List the living peers of all jobs, or of one.

    \b
    gossip-caffe peer list --etcd 10.0.0.5:2379 --job mnist
    """
    living = with_connection(place, job, lambda connection: _living(connection, job))
    troubles = {(peer.job, peer.name): peer.status.trouble for peer in living if peer.status is not None}
    if as_json:
        print_json(
            [
                {
                    "job": peer.job,
                    **json.loads(peer.record.to_json()),
                    "trouble": troubles.get((peer.job, peer.name), ""),
                }
                for peer in living
            ]
        )
        return
    rows = [
        (
            peer.job,
            peer.name,
            peer.state,
            peer.record.device,
            peer.record.address + (" (insecure)" if peer.record.insecure else ""),
            peer.record.host,
            str(peer.record.pid),
        )
        for peer in living
    ]
    print_table(("JOB", "PEER", "STATE", "DEVICE", "ADDRESS", "HOST", "PID"), rows)
    for _, trouble in sorted(troubles.items()):
        if trouble:
            say(trouble)


@peer.command()
@click.argument("peer")
@job_option
@click.option("--no-wait", is_flag=True, help="Return at once; do not wait until the peer has left.")
@etcd_options
def stop(peer: str, job: str, no_wait: bool, place: EtcdPlace) -> None:
    """Ask a peer, on any machine, to leave in good order, and wait until it has left.

    The peer finishes the batches that it began, shares its weights, returns the rest of its data, and leaves within
    seconds. The other peers go on. It is no error if the peer has left already.

    \b
    gossip-caffe peer stop p-3fa9c1 --etcd 10.0.0.5:2379
    """
    say(with_connection(place, job, lambda connection: _stop(connection, peer, job, no_wait)))


async def _stop(connection: Connection, name: str, job: str, no_wait: bool) -> str:
    """Ask the peer to leave. Returns the command's last line."""
    living = await _living(connection, job)
    found = [peer for peer in living if peer.name == name]
    if len(found) > 1:
        jobs = ", ".join(peer.job for peer in found)
        raise UsageError(f"several jobs have a peer {name!r} ({jobs})", remedy="give --job")
    if not found:
        known = ", ".join(sorted({*living.names})) or "none"
        return f"no peer {name!r} is alive; nothing to do (alive: {known})"
    peer = found[0]
    said = f"{name} of job {peer.job} (pid {peer.record.pid} on {peer.record.host})"
    of_its_job = connection.job(peer.job)
    try:
        if no_wait:
            await of_its_job.stop_peer(name, wait=False, by="peer stop")
            return f"{said} is asked to leave: it shares its weights and returns the rest of its data"
        with told_when_slow(f"{said} is asked to leave; it finishes its batches and shares its weights …"):
            await of_its_job.stop_peer(name, by="peer stop")
    except NotFound:
        pass  # it has left in this moment
    return f"{said} has left; other peers train the rest of its data"
