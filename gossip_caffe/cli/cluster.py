"""``gossip-caffe cluster``: peers and an etcd on this machine."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from typing import Any

import click

from gossip_caffe.cli.job import read_spec
from gossip_caffe.cli.output import print_json, print_table, rich_table
from gossip_caffe.cluster.control import ask
from gossip_caffe.cluster.state import ClusterState
from gossip_caffe.cluster.view import HEADINGS, headline, rows
from gossip_caffe.errors import ExitCode, GossipCaffeError, NotFound, UsageError
from gossip_caffe.membership.etcd_channel import parse_endpoints

READY_DEADLINE_S = 120.0
PLAIN_EVERY_S = 5.0

name_option = click.option("--name", default="local", show_default=True, help="The cluster's name.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def cluster() -> None:
    """Run a job on this machine: an etcd, and as many peers as you like.

    \b
    gossip-caffe cluster up --peers 4 --solver solver.prototxt
    gossip-caffe cluster scale 6
    gossip-caffe cluster kill p1
    gossip-caffe cluster down
    """


@cluster.command()
@click.option(
    "--peers", default=2, show_default=True, type=click.IntRange(1, 256), help="How many peers to start."
)
@click.option("--solver", default="", help="Create the job from this solver.prototxt.")
@click.option("--job", "job_name", default="", help="The job's name; without --solver it must exist.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of the new job.")
@click.option("--etcd", default="", metavar="HOST:PORT[,…]", help="Use this etcd instead of one of our own.")
@click.option("--detach", "-d", is_flag=True, help="Return when the peers train, and leave them running.")
@click.option("--engine", default="pycaffe", type=click.Choice(["pycaffe", "numpy"]), hidden=True)
@name_option
def up(
    peers: int,
    solver: str,
    job_name: str,
    settings: tuple[str, ...],
    etcd: str,
    detach: bool,
    engine: str,
    name: str,
) -> None:
    """Start etcd and peers, and show them until the job is finished. Ctrl-C takes everything down.

    \b
    gossip-caffe cluster up --peers 4 --solver examples/mnist/lenet_solver.prototxt
    """
    from gossip_caffe.cluster.supervisor import ClusterOptions, Supervisor  # noqa: PLC0415 - heavy

    if not solver and not job_name:
        raise UsageError(
            "there is nothing to train", remedy="give --solver FILE, or --job NAME of a job in etcd"
        )
    state = ClusterState(name)
    state.lock().close()  # refuses at once when one is up; the supervisor takes it for good
    job_name = job_name or "job"
    spec = read_spec(job_name, solver, settings) if solver else None
    if detach:
        _detached(state)
        return
    options = ClusterOptions(state, peers, job_name, spec, parse_endpoints(etcd) if etcd else (), engine)
    sys.exit(asyncio.run(_supervise(Supervisor(options, click.echo))))


async def _supervise(supervisor: Any) -> ExitCode:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, supervisor.go_down, number.name)
    if not sys.stdout.isatty():
        return ExitCode(await supervisor.run(_Lines()))
    from rich.live import Live  # noqa: PLC0415

    with Live(refresh_per_second=4) as live:
        supervisor._say = live.console.print
        return ExitCode(
            await supervisor.run(
                lambda status: live.update(rich_table(HEADINGS, rows(status), headline(status)))
            )
        )


class _Lines:
    """Where there is no terminal: the headline every few seconds."""

    def __init__(self) -> None:
        self._said_at = float("-inf")

    def __call__(self, status: dict[str, Any]) -> None:
        if time.monotonic() - self._said_at >= PLAIN_EVERY_S:
            self._said_at = time.monotonic()
            click.echo(headline(status))


def _detached(state: ClusterState) -> None:
    """Run the same command in the background, and return when its peers train."""
    command = [
        sys.executable,
        "-m",
        "gossip_caffe",
        *[word for word in sys.argv[1:] if word not in {"-d", "--detach"}],
    ]
    log = state.log("supervisor")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    deadline = time.monotonic() + READY_DEADLINE_S
    said = ""
    while time.monotonic() < deadline:
        if process.poll() is not None:
            words = log.read_text(errors="replace").strip().splitlines()
            if process.returncode == 0:
                click.echo(words[-1] if words else "the cluster has ended")
                return
            error = GossipCaffeError(
                words[-1].removeprefix("gossip-caffe: ") if words else "the cluster did not start"
            )
            error.exit_code = (
                ExitCode(process.returncode) if process.returncode in set(ExitCode) else ExitCode.FAILED
            )
            raise error
        try:
            status = ask(state, {"do": "status"})
        except NotFound:
            status = None
        if status is not None:
            if (line := headline(status)) != said:
                said = line
                click.echo(line)
            running = [peer for peer in status["peers"] if peer["running"]]
            if running and all(peer.get("status", {}).get("state") == "training" for peer in running):
                click.echo(
                    f"{len(running)} peers train; see 'gossip-caffe cluster status --name {state.name}'"
                )
                return
        time.sleep(0.3)
    raise GossipCaffeError(f"the peers do not train after {READY_DEADLINE_S:.0f} s", remedy=f"see {log}")


@cluster.command()
@json_option
@name_option
def status(as_json: bool, name: str) -> None:
    """Show the peers of a running cluster."""
    found = ask(ClusterState(name), {"do": "status"})
    if as_json:
        print_json(found)
    else:
        print_table(HEADINGS, rows(found), headline(found))


@cluster.command()
@click.argument("peers", type=click.IntRange(0, 256))
@json_option
@name_option
def scale(peers: int, as_json: bool, name: str) -> None:
    """Start or stop peers until PEERS of them run; those that leave share what they have learned first."""
    result = ask(ClusterState(name), {"do": "scale", "peers": peers})
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
@click.option("--signal", "number", default="KILL", show_default=True, help="KILL, TERM, STOP or CONT.")
@json_option
@name_option
def kill(peer: str, what: str, number: str, as_json: bool, name: str) -> None:
    """Kill a peer, or one of its processes, to see that training survives it."""
    request = {"do": "kill", "peer": peer, "what": what, "signal": number.upper().removeprefix("SIG")}
    result = ask(ClusterState(name), request)
    if as_json:
        print_json(result)
    else:
        click.echo(
            f"{result['signal']} sent to the {what} of {peer} (pid {', '.join(map(str, result['pids']))})"
        )


@cluster.command()
@name_option
def down(name: str) -> None:
    """Take a cluster down: peers share what they have learned and leave, then etcd stops."""
    state = ClusterState(name)
    try:
        ask(state, {"do": "down"})
    except NotFound:
        click.echo(f"no cluster {name!r} is up; nothing to do")
        return
    deadline = time.monotonic() + READY_DEADLINE_S
    while state.taken:
        if time.monotonic() > deadline:
            raise GossipCaffeError(f"cluster {name!r} does not go down", remedy=f"see {state.folder}/logs")
        time.sleep(0.05)
    click.echo(f"cluster {name!r} is down")
