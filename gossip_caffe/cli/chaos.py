"""``gossip-caffe chaos``: do to a local cluster what machines do, and see what is left."""

# ruff: noqa: PLC0415 - what is heavy is imported by the command that needs it, so that --help and completion are quick

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import click

from gossip_caffe.cli.new_job import NewJob, read_spec
from gossip_caffe.cli.output import print_json


@click.group()
def chaos() -> None:
    """Kill, freeze and part the processes of a local cluster by a plan, and check what is left.

    \b
    gossip-caffe chaos run examples/chaos/short.toml --solver solver.prototxt
    """


@chaos.command()
@click.argument("scenario", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--solver", required=True, help="The job that is trained meanwhile.")
@click.option(
    "--folder",
    default="gossip-caffe-chaos",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where everything of the run is kept; a run that was interrupted there goes on.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON; what happens goes to stderr."
)
@click.option("--engine", default="pycaffe", type=click.Choice(["pycaffe", "numpy"]), hidden=True)
@click.option(
    "--outside", default=0, hidden=True, help="The network namespace that this command was called in."
)
def run(scenario: Path, solver: str, folder: Path, as_json: bool, engine: str, outside: int) -> None:
    """Carry out SCENARIO: strokes at random moments, the same ones for the same seed (docs/chaos.md).

    Exit code 0: every stroke was dealt, nothing is lost, no invariant is broken, nothing was left behind, and the
    models are as accurate as that of a run which nobody disturbed.

    \b
    gossip-caffe chaos run examples/chaos/short.toml --solver solver.prototxt --json
    """
    from gossip_caffe.cluster.chaos_run import ChaosRun
    from gossip_caffe.cluster.chaos_scenario import Network, read_scenario
    from gossip_caffe.cluster.chaos_standing import last_lines
    from gossip_caffe.cluster.own_network import go_on_in_own_network, network_id

    read = read_scenario(scenario)
    if read.network is Network.NAMESPACES and outside in {0, network_id()}:
        go_on_in_own_network([*sys.argv[1:], "--outside", str(network_id())])
    spec = read_spec(read.name, solver, NewJob(read.settings), checked=engine == "pycaffe")
    chaos_run = ChaosRun(read, spec, folder.absolute(), lambda line: click.echo(line, err=as_json), engine)

    async def supervised() -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, chaos_run.interrupt, number.name)
        return int(await chaos_run.run())

    code = asyncio.run(supervised())
    record = chaos_run.standing.to_record()
    if as_json:
        print_json(record)
    else:
        for line in last_lines(record):
            click.echo(line)
    sys.exit(code)
