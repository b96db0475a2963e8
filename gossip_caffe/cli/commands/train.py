"""``gossip-caffe train``: train a solver file as ``caffe train`` does, with any number of peers."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossip_caffe.cli.options.allow_code import allow_code_arguments, allow_code_option
from gossip_caffe.cli.options.data_root import data_root_option
from gossip_caffe.cli.options.event_log import EventLogOptions, event_log_options
from gossip_caffe.cli.options.gpus import gpus_of, gpus_option
from gossip_caffe.cli.options.launch import as_rank_0, become_peer, launch_of_several
from gossip_caffe.cli.options.local_cluster import effects_of, go_down_on_signals
from gossip_caffe.cli.options.metrics import OFF, metrics_of, metrics_option
from gossip_caffe.cli.options.new_job import NewJob, new_job_options, teller
from gossip_caffe.cli.options.security import security_options
from gossip_caffe.cli.options.solver_file import solver_file
from gossip_caffe.cli.terminal.output import print_json
from gossip_caffe.cli.terminal.streams import say
from gossip_caffe.cli.terminal.train_log import TakeEvent, train_log
from gossip_caffe.cli.terminal.train_screen import SHOWN, TrainScreen, train_screen
from gossip_caffe.system.signals import Effect

if TYPE_CHECKING:
    from gossip_caffe.api.starting.training import LocalTraining
    from gossip_caffe.api.values.result import Result
    from gossip_caffe.security.security import Security


@click.command()
@solver_file
@click.option(
    "--peers",
    type=click.IntRange(1, 256),
    help="The number of peers.  [default: 1, or one for each GPU of --gpu]",
)
@gpus_option
@new_job_options
@data_root_option
@allow_code_option
@event_log_options
@click.option(
    "--etcd",
    default="",
    metavar="HOST:PORT[,…]",
    help="Use this etcd, so that other machines can join the job.",
)
@click.option("--job", "job_name", default="", help="The job's name in that etcd. [default: a new name]")
@metrics_option("Default: none.")
@click.option(
    "--log",
    "log_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a log as 'caffe train' writes it, for the tools that read such logs.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON; all other output goes to stderr."
)
@click.option(
    "--sigint_effect",
    "--sigint-effect",
    "sigint_effect",
    type=click.Choice([effect.value for effect in Effect]),
    default=Effect.STOP.value,
    show_default=True,
    help="The effect of Ctrl-C (SIGINT): stop with a snapshot, write a snapshot and go on, or none.",
)
@click.option(
    "--sighup_effect",
    "--sighup-effect",
    "sighup_effect",
    type=click.Choice([effect.value for effect in Effect]),
    help="The effect of SIGHUP, for example of a terminal that closes.  [default: snapshot; under nohup: none]",
)
@click.option("--engine", default="pycaffe", type=click.Choice(["pycaffe", "numpy"]), hidden=True)
@security_options
def train(
    solver: str,
    peers: int | None,
    gpus: str,
    new: NewJob,
    data_roots: tuple[str, ...],
    allow_code: bool | None,
    event_log: EventLogOptions,
    etcd: str,
    job_name: str,
    metrics_listen: str,
    log_file: Path | None,
    as_json: bool,
    sigint_effect: str,
    sighup_effect: str | None,
    engine: str,
    security: Security,
) -> None:
    """Train the net of a SOLVER file, and write its .caffemodel and .solverstate where Caffe would.

    The result is SNAPSHOT_PREFIX_iter_MAX_ITER.caffemodel; 'snapshot' in the solver file writes more on the way. etcd
    and the peers run only as long as the command. At Ctrl-C the peers share their weights, and the newest weights are
    written; --snapshot continues from them. SIGHUP writes a snapshot, and the training goes on. One peer reads, tests
    and writes snapshots as plain Caffe does.

    \b
    gossip-caffe train --solver solver.prototxt
    gossip-caffe train --solver solver.prototxt --snapshot lenet_iter_5000.solverstate
    gossip-caffe train --solver solver.prototxt --peers 4
    gossip-caffe train --solver solver.prototxt --gpu 0,1
    mpirun --enable-recovery --bind-to none -n 4 gossip-caffe train --solver solver.prototxt
    """
    from gossip_caffe.api.starting.training import TrainRequest, data_root_arguments, opened, planned
    from gossip_caffe.observe.export.caffe_lines import KINDS

    of_peers = (
        *data_root_arguments(data_roots),
        *allow_code_arguments(allow_code),
        *event_log.arguments,
    )
    launch = launch_of_several()
    if launch is not None and launch.rank:
        named = (
            ("--etcd", etcd, "--job", job_name, *security.arguments, *of_peers) if etcd and job_name else ()
        )
        from gossip_caffe.cli.commands.peer import start

        become_peer(launch, gpus, engine, etcd, named, partial(start.main, standalone_mode=False))
    if metrics_listen not in {"", OFF}:
        metrics_listen = metrics_of(metrics_listen, gpus_of(gpus, peers, 1, engine)[1])
    with as_rank_0(launch) as started:
        request = TrainRequest(
            solver,
            peers,
            gpus,
            new,
            etcd,
            job_name,
            of_peers,
            metrics_listen=metrics_listen or OFF,
            engine=engine,
            security=security,
            launch=launch,
            started=started,
        )
        plan = planned(request, teller())
        on_terminal = sys.stdout.isatty() and not as_json and launch is None  # the other ranks print, too
        with (
            train_screen(plan.spec.budget_samples, on_terminal=on_terminal, to_stderr=as_json) as screen,
            train_log(log_file, screen.say) as log,
            opened(plan, ScreenAndLog(screen, log), SHOWN | KINDS) as training,
        ):
            result = asyncio.run(_train(training, effects_of(sigint_effect, sighup_effect)))
    if as_json:
        print_json(result.to_record())
    else:
        say(_last_line(result, plan.snapshots.max_iter, solver))
    sys.exit(result.code)


async def _train(training: LocalTraining, effects: Mapping[signal.Signals, Effect]) -> Result:
    """Run the training until it is finished or interrupted. Raises GossipCaffeError when its peers fail."""
    training.begin()
    go_down_on_signals(training.supervisor, effects, training.asked.ask)
    return await training.run()


class ScreenAndLog:
    """The audience of a training: its screen, and its log in Caffe's words."""

    def __init__(self, screen: TrainScreen, log: TakeEvent) -> None:
        self._screen = screen
        self._log = log

    def say(self, line: str) -> None:
        """Show a line of news."""
        self._screen.say(line)

    def look(self, status: dict[str, Any]) -> None:
        """Show the newest status."""
        self._screen.look(status)

    def happened(self, event: Mapping[str, Any]) -> None:
        """Give an event to the log, and to the screen if it is shown there."""
        self._log(event)
        if event["event"] in SHOWN:
            self._screen.happened(event)


def _last_line(result: Result, max_iter: int, solver: str) -> str:
    following = f"gossip-caffe evaluate --solver {solver} --weights {result.model}"
    if result.tested is None:
        following = f"""load it with caffe.Net(NET, "{result.model}", caffe.TEST)"""
    if result.model is None:
        where = "no model is written, as the solver says (snapshot_after_train: false)"
        if not result.finished:
            where = "nothing is learned yet"
        elif result.snapshots:
            where = f"the last snapshot is {result.snapshots[-1]}"
        return f"{'trained' if result.finished else 'interrupted'}: {where}"
    if not result.finished:
        if result.state is not None:
            following = f"gossip-caffe train {solver} --snapshot {result.state}"
        return f"interrupted at iteration {result.iterations:,} of {max_iter:,}: {result.model}; next: {following}"
    lacks = f" (without a .solverstate to go on from: {result.lacks})" if result.lacks else ""
    return f"trained: {result.model}{lacks}; next: {following}"
