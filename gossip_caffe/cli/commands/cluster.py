"""``gossip-caffe cluster``: an etcd and peers on this machine."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from gossip_caffe.api.starting.job_options import PEERS_OF_A_CLUSTER
from gossip_caffe.begin import python_command
from gossip_caffe.cli.commands.peer import from_checkpoint_option
from gossip_caffe.cli.options.allow_code import allow_code_arguments, allow_code_option
from gossip_caffe.cli.options.data_root import data_root_option
from gossip_caffe.cli.options.detach import run_detached
from gossip_caffe.cli.options.event_log import EventLogOptions, event_log_options
from gossip_caffe.cli.options.gpus import gpus_option
from gossip_caffe.cli.options.grace import grace_option
from gossip_caffe.cli.options.local_cluster import (
    data_root_arguments,
    go_down_on_signals,
)
from gossip_caffe.cli.options.metrics import metrics_option
from gossip_caffe.cli.options.new_job import NewJob, new_job_options, teller
from gossip_caffe.cli.options.security import security_options
from gossip_caffe.cli.terminal.output import print_json, print_table
from gossip_caffe.cli.terminal.screen import Screen, screen
from gossip_caffe.cli.terminal.streams import say
from gossip_caffe.cluster.view import HEADINGS, headline, remarks, rows
from gossip_caffe.errors import ExitCode, GossipCaffeError, NotFound
from gossip_caffe.peer.core.lifecycle import GRACE_S

if TYPE_CHECKING:
    from gossip_caffe.cluster.state.options import ClusterOptions
    from gossip_caffe.security.security import Security

MORE_S = 48.0
"""The time that a command may take beside the leaving of its peers."""

name_option = click.option("--name", default="local", show_default=True, help="The cluster's name.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def cluster() -> None:
    """Run a job on this machine: an etcd, and any number of peers.

    \b
    gossip-caffe cluster up --peers 4 --solver solver.prototxt
    gossip-caffe cluster up --gpu 0,1 --solver solver.prototxt
    gossip-caffe cluster scale 6
    gossip-caffe cluster kill p1
    gossip-caffe cluster down
    """


@cluster.command()
@click.option(
    "--peers",
    type=click.IntRange(1, 256),
    help=f"The number of peers to start.  [default: {PEERS_OF_A_CLUSTER}, or one for each GPU of --gpu]",
)
@gpus_option
@click.option("--solver", default="", help="Create the job from this solver.prototxt.")
@click.option(
    "--job",
    "job_name",
    default="",
    help="The job's name; without --solver it must exist.  [default: after the solver file, or the only one in --etcd]",
)
@click.option("--etcd", default="", metavar="HOST:PORT[,…]", help="Use this etcd instead of starting one.")
@click.option(
    "--etcd-listen",
    default="",
    metavar="HOST:PORT",
    help="Let the started etcd listen at this address, for peers on other machines; port 0: any free port. Every "
    "program that reaches it can write to it. Default: a Unix socket that only you can use.",
)
@metrics_option("Default: a Unix socket for each peer, and with another etcd a free port on loopback.")
@click.option("--detach", "-d", is_flag=True, help="Return when the peers train, and leave them running.")
@click.option("--restart", is_flag=True, help="Start a new peer for each one that dies.")
@grace_option("The time that a peer has for leaving, for example when the cluster goes down.")
@new_job_options
@data_root_option
@from_checkpoint_option
@allow_code_option
@event_log_options
@click.option("--engine", default="pycaffe", type=click.Choice(["pycaffe", "numpy"]), hidden=True)
@name_option
@security_options
def up(
    peers: int | None,
    gpus: str,
    solver: str,
    job_name: str,
    new: NewJob,
    data_roots: tuple[str, ...],
    from_checkpoint: str,
    allow_code: bool | None,
    event_log: EventLogOptions,
    etcd: str,
    etcd_listen: str,
    metrics_listen: str,
    detach: bool,
    restart: bool,
    grace_s: float,
    engine: str,
    name: str,
    security: Security,
) -> None:
    """Start etcd and peers, and show them until the job is finished. Ctrl-C takes everything down.

    The cluster's folder keeps the job's progress: the same command continues it.

    \b
    gossip-caffe cluster up --peers 4 --solver examples/mnist/lenet_solver.prototxt
    """
    from gossip_caffe.api.starting.kept_cluster import ClusterRequest, planned_cluster

    of_peers = (
        *data_root_arguments(data_roots),
        *allow_code_arguments(allow_code),
        *event_log.arguments,
    )
    request = ClusterRequest(
        name,
        solver,
        job_name,
        peers,
        gpus,
        new,
        etcd,
        etcd_listen,
        metrics_listen,
        of_peers,
        from_checkpoint,
        restart,
        grace_s,
        engine,
        security,
    )
    options = planned_cluster(request, teller())
    if not detach:
        with screen() as shown:
            code = asyncio.run(_supervised(options, solver, shown))
        sys.exit(code)
    command = python_command("gossip_caffe", "cluster", "up", "--name", name, "--peers", str(options.peers))
    command += ["--job", options.job, "--engine", engine, "--unchecked"]  # this process has checked it
    command += ["--solver", solver] if solver else []
    command += ["--etcd", etcd] if etcd else []
    command += ["--etcd-listen", etcd_listen] if etcd_listen else []
    command += ["--metrics-listen", metrics_listen] if metrics_listen else []
    command += ["--gpu", gpus] if gpus else []
    command += ["--restart"] if restart else []
    command += ["--grace", str(grace_s)]
    command += ["--from-checkpoint", from_checkpoint] if from_checkpoint else []
    command += [*of_peers, *new.arguments, *security.arguments]
    run_detached(options.state, command)


async def _supervised(options: ClusterOptions, solver: str, shown: Screen) -> ExitCode:
    from gossip_caffe.api.starting.kept_cluster import supervise

    return await supervise(options, solver, shown, go_down_on_signals)


@cluster.command()
@json_option
@name_option
def status(as_json: bool, name: str) -> None:
    """Show the job and the peers of a running cluster.

    \b
    gossip-caffe cluster status --json
    """
    found = _ask(name, {"do": "status"})
    if as_json:
        print_json(found)
    else:
        print_table(HEADINGS, rows(found), headline(found))
        for line in remarks(found):
            say(line)


@cluster.command()
@click.argument("peers", type=click.IntRange(0, 256))
@json_option
@name_option
def scale(peers: int, as_json: bool, name: str) -> None:
    """Start or stop peers until PEERS of them run. A peer that is stopped first shares its weights.

    \b
    gossip-caffe cluster scale 6
    """
    patience_s = MORE_S + _leave_s(_ask(name, {"do": "status"}))
    result = _ask(name, {"do": "scale", "peers": peers}, patience_s)
    if as_json:
        print_json(result)
        return
    for peer in result["started"]:
        say(f"{peer} starts")
    for peer in result["stopped"]:
        say(f"{peer} has left")
    say(result["reason"])


@cluster.command()
@click.argument("peer")
@click.option(
    "--what",
    default="all",
    show_default=True,
    type=click.Choice(["agent", "solver", "loader", "all"]),
    help="The process of the peer that gets the signal.",
)
@click.option(
    "--signal",
    "number",
    default="KILL",
    show_default=True,
    type=click.Choice(["KILL", "TERM", "STOP", "CONT"], case_sensitive=False),
    help="The signal. STOP freezes a process, CONT lets it go on; TERM to the agent lets the peer leave in good order.",
)
@json_option
@name_option
def kill(peer: str, what: str, number: str, as_json: bool, name: str) -> None:
    """Kill a peer, or one of its processes: training survives it.

    \b
    gossip-caffe cluster kill p1
    gossip-caffe cluster kill p0 --what solver
    gossip-caffe cluster kill p2 --what agent --signal STOP
    """
    result = _ask(name, {"do": "kill", "peer": peer, "what": what, "signal": number})
    if as_json:
        print_json(result)
    else:
        say(
            f"{result['signal']} sent to {'all processes' if what == 'all' else f'the {what}'} of {peer} "
            f"(pid {', '.join(map(str, result['pids']))})"
        )


@cluster.command()
@name_option
def down(name: str) -> None:
    """Take a cluster down: its peers share their weights and leave, then etcd stops.

    \b
    gossip-caffe cluster down
    """
    from gossip_caffe.cluster.state.folder import ClusterState

    state = ClusterState(name)
    try:
        patience_s = MORE_S + _leave_s(_ask(name, {"do": "down"}))
    except NotFound:
        say(f"no cluster {name!r} is up; nothing to do")
        return
    deadline = time.monotonic() + patience_s
    while state.taken:
        if time.monotonic() > deadline:
            raise GossipCaffeError(
                f"cluster {name!r} is not down after {patience_s:.0f} s",
                remedy=f"see {state.folder}/logs",
            )
        time.sleep(0.05)
    say(f"cluster {name!r} is down")


def _leave_s(answer: dict[str, Any]) -> float:
    """The seconds that a peer of this cluster has for leaving. Supervisors of older versions do not say it."""
    told = answer.get("leave_s")
    return float(told) if isinstance(told, int | float) else GRACE_S


def _ask(name: str, request: dict[str, object], timeout_s: float = 60.0) -> dict[str, Any]:
    from gossip_caffe.cluster.state.folder import ClusterState
    from gossip_caffe.cluster.supervision.control import ask

    return ask(ClusterState(name), request, timeout_s)
