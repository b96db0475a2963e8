"""``gossip-caffe chaos``: inject faults into a local cluster, and check the result."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from gossip_caffe.cli.options.new_job import NewJob, read_spec
from gossip_caffe.cli.terminal.output import print_json
from gossip_caffe.cli.terminal.streams import never_wait_for_readers, say
from gossip_caffe.system.signals import ending_signals


@click.group()
def chaos() -> None:
    """Kill, freeze and partition the processes of a local cluster by a scenario, and check the result.

    \b
    gossip-caffe chaos run examples/chaos/short.toml --solver solver.prototxt
    """


@chaos.command()
@click.argument("scenario", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--solver", required=True, help="The solver.prototxt of the job that is trained meanwhile.")
@click.option(
    "--folder",
    default="gossip-caffe-chaos",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder of the run's files; a run that was interrupted there goes on.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and the progress to stderr.")
@click.option("--engine", default="pycaffe", type=click.Choice(["pycaffe", "numpy"]), hidden=True)
@click.option(
    "--outside", default=0, hidden=True, help="The network namespace that this command was called in."
)
def run(scenario: Path, solver: str, folder: Path, as_json: bool, engine: str, outside: int) -> None:
    """Carry out SCENARIO: injections at random moments, the same ones for the same seed (docs/internals/chaos.md).

    Exit code 0: every injection was carried out, no record is lost, no invariant is broken, no process or lease was
    left behind, and the models are as accurate as that of the undisturbed run.

    \b
    gossip-caffe chaos run examples/chaos/short.toml --solver solver.prototxt --json
    """
    from gossip_caffe.chaos.own_network import go_on_in_own_network, network_id
    from gossip_caffe.chaos.progress import last_lines
    from gossip_caffe.chaos.run import ChaosRun
    from gossip_caffe.chaos.scenario import NetworkKind, read_scenario

    read = read_scenario(scenario)
    if read.network is NetworkKind.NAMESPACES and outside in {0, network_id()}:
        go_on_in_own_network([*sys.argv[1:], "--outside", str(network_id())])
    spec = read_spec(read.name, solver, NewJob(read.settings), checked=engine == "pycaffe")
    chaos_run = ChaosRun(read, spec, folder.absolute(), lambda line: say(line, err=as_json), engine)

    async def supervised() -> int:
        never_wait_for_readers()
        loop = asyncio.get_running_loop()
        for number in ending_signals():
            loop.add_signal_handler(number, chaos_run.interrupt, number.name)
        return int(await chaos_run.run())

    code = asyncio.run(supervised())
    record = chaos_run.progress.to_record()
    if as_json:
        print_json(record)
    else:
        for line in last_lines(record):
            say(line)
    sys.exit(code)
