"""``gossip-caffe cluster``: peers and an etcd on this machine."""

# ruff: noqa: PLC0415 - what is heavy is imported by the command that needs it, so that --help and completion are quick

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from gossip_caffe.cli.detach import run_detached
from gossip_caffe.cli.local_cluster import cards_of, data_root_words, go_down_on_signals, gpus_option
from gossip_caffe.cli.new_job import NewJob, named_after, new_job_options, read_spec
from gossip_caffe.cli.output import print_json, print_table
from gossip_caffe.cli.peer import data_root_option, from_checkpoint_option
from gossip_caffe.cli.screen import screen
from gossip_caffe.cluster.view import HEADINGS, headline, rows
from gossip_caffe.errors import ExitCode, GossipCaffeError, NotFound, UsageError

if TYPE_CHECKING:
    from gossip_caffe.cluster.supervisor import ClusterOptions

DOWN_DEADLINE_S = 40.0
PEERS = 2

name_option = click.option("--name", default="local", show_default=True, help="The cluster's name.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def cluster() -> None:
    """Run a job on this machine: an etcd, and as many peers as you like.

    \b
    gossip-caffe cluster up --peers 4 --solver solver.prototxt
    gossip-caffe cluster up --gpus 0,1 --solver solver.prototxt
    gossip-caffe cluster scale 6
    gossip-caffe cluster kill p1
    gossip-caffe cluster down
    """


@cluster.command()
@click.option(
    "--peers",
    type=click.IntRange(1, 256),
    help=f"How many peers to start.  [default: {PEERS}, or one for each of --gpus]",
)
@gpus_option
@click.option("--solver", default="", help="Create the job from this solver.prototxt.")
@click.option("--job", "job_name", default="", help="The job's name; without --solver it must exist.")
@click.option("--etcd", default="", metavar="HOST:PORT[,…]", help="Use this etcd instead of one of our own.")
@click.option("--detach", "-d", is_flag=True, help="Return when the peers train, and leave them running.")
@click.option("--restart", is_flag=True, help="Start another peer in the place of one that is killed.")
@new_job_options
@data_root_option
@from_checkpoint_option
@click.option("--engine", default="pycaffe", type=click.Choice(["pycaffe", "numpy"]), hidden=True)
@name_option
def up(
    peers: int | None,
    gpus: str,
    solver: str,
    job_name: str,
    new: NewJob,
    data_roots: tuple[str, ...],
    from_checkpoint: str,
    etcd: str,
    detach: bool,
    restart: bool,
    engine: str,
    name: str,
) -> None:
    """Start etcd and peers, and show them until the job is finished. Ctrl-C takes everything down.

    What was learned stays in the cluster's folder: the same command goes on with it.

    \b
    gossip-caffe cluster up --peers 4 --solver examples/mnist/lenet_solver.prototxt
    """
    from gossip_caffe.cluster.state import ClusterState
    from gossip_caffe.cluster.supervisor import ClusterOptions
    from gossip_caffe.membership.etcd_channel import parse_endpoints

    if not solver and not job_name:
        raise UsageError(
            "there is nothing to train", remedy="give --solver FILE, or --job NAME of a job in etcd"
        )
    if new.words and not solver:
        raise UsageError(f"{new.words[0]} belongs to a new job", remedy="give --solver FILE with it")
    state = ClusterState(name)
    state.lock().close()  # refuses at once when one is up; the supervisor takes it for good
    job_name = job_name or named_after(solver)
    endpoints = parse_endpoints(etcd) if etcd else ()
    cards, peers = cards_of(gpus, peers, PEERS, engine)
    checked = engine == "pycaffe"
    spec = read_spec(job_name, solver, new, checked=checked, on_cards=bool(cards)) if solver else None
    of_peers = data_root_words(data_roots)
    options = ClusterOptions(
        state, peers, job_name, spec, endpoints, engine, restart, of_peers, from_checkpoint, cards=cards
    )
    if not detach:
        sys.exit(asyncio.run(_supervise(options)))
    command = [sys.executable, "-m", "gossip_caffe", "cluster", "up", "--name", name, "--peers", str(peers)]
    command += ["--job", job_name, "--engine", engine, "--unchecked"]  # it was checked here
    command += ["--solver", solver] if solver else []
    command += ["--etcd", etcd] if etcd else []
    command += ["--gpus", gpus] if gpus else []
    command += ["--restart"] if restart else []
    command += ["--from-checkpoint", from_checkpoint] if from_checkpoint else []
    command += [*of_peers, *new.words]
    run_detached(state, command)


async def _supervise(options: ClusterOptions) -> ExitCode:
    from gossip_caffe.cluster.supervisor import Supervisor

    with screen() as shown:
        supervisor = Supervisor(options, shown.say)
        go_down_on_signals(supervisor)
        code = await supervisor.run(shown.look)
        if supervisor.checkpoint:
            shown.say(f"job {options.job} is finished: {supervisor.model}")
        return code


@cluster.command()
@json_option
@name_option
def status(as_json: bool, name: str) -> None:
    """Show the peers of a running cluster.

    \b
    gossip-caffe cluster status --json
    """
    found = _ask(name, {"do": "status"})
    if as_json:
        print_json(found)
    else:
        print_table(HEADINGS, rows(found), headline(found))


@cluster.command()
@click.argument("peers", type=click.IntRange(0, 256))
@json_option
@name_option
def scale(peers: int, as_json: bool, name: str) -> None:
    """Start or stop peers until PEERS of them run; those that leave share what they have learned first.

    \b
    gossip-caffe cluster scale 6
    """
    result = _ask(name, {"do": "scale", "peers": peers})
    if as_json:
        print_json(result)
        return
    for peer in result["started"]:
        click.echo(f"{peer} starts")
    for peer in result["stopped"]:
        click.echo(f"{peer} has left")
    click.echo(result["reason"])


@cluster.command()
@click.argument("peer")
@click.option(
    "--what",
    default="all",
    show_default=True,
    type=click.Choice(["agent", "solver", "loader", "all"]),
    help="Which of the peer's processes.",
)
@click.option(
    "--signal",
    "number",
    default="KILL",
    show_default=True,
    type=click.Choice(["KILL", "TERM", "STOP", "CONT"], case_sensitive=False),
    help="What is sent. STOP freezes, CONT thaws; TERM to the agent lets the peer leave in good order.",
)
@json_option
@name_option
def kill(peer: str, what: str, number: str, as_json: bool, name: str) -> None:
    """Kill a peer, or one of its processes, to see that training survives it.

    \b
    gossip-caffe cluster kill p1
    gossip-caffe cluster kill p0 --what solver
    gossip-caffe cluster kill p2 --what agent --signal STOP
    """
    result = _ask(name, {"do": "kill", "peer": peer, "what": what, "signal": number})
    if as_json:
        print_json(result)
    else:
        click.echo(
            f"{result['signal']} sent to the {'whole' if what == 'all' else what} of {peer} "
            f"(pid {', '.join(map(str, result['pids']))})"
        )


@cluster.command()
@name_option
def down(name: str) -> None:
    """Take a cluster down: peers share what they have learned and leave, then etcd stops.

    \b
    gossip-caffe cluster down
    """
    from gossip_caffe.cluster.state import ClusterState

    state = ClusterState(name)
    try:
        _ask(name, {"do": "down"})
    except NotFound:
        click.echo(f"no cluster {name!r} is up; nothing to do")
        return
    deadline = time.monotonic() + DOWN_DEADLINE_S
    while state.taken:
        if time.monotonic() > deadline:
            raise GossipCaffeError(
                f"cluster {name!r} is not down after {DOWN_DEADLINE_S:.0f} s",
                remedy=f"see {state.folder}/logs",
            )
        time.sleep(0.05)
    click.echo(f"cluster {name!r} is down")


def _ask(name: str, request: dict[str, object]) -> dict[str, Any]:
    from gossip_caffe.cluster.control import ask
    from gossip_caffe.cluster.state import ClusterState

    return ask(ClusterState(name), request)
