"""``gossip-caffe train``: train a solver file as ``caffe train`` does, with any number of peers."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import signal
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossip_caffe.cli.options.allow_code import allow_code_arguments, allow_code_option
from gossip_caffe.cli.options.data_root import data_root_option
from gossip_caffe.cli.options.event_log import EventLogOptions, event_log_options
from gossip_caffe.cli.options.local_cluster import (
    data_root_arguments,
    effects_of,
    go_down_on_signals,
    gpus_of,
    gpus_option,
)
from gossip_caffe.cli.options.metrics import OFF, metrics_of, metrics_option
from gossip_caffe.cli.options.new_job import NewJob, named_after, new_job_options, read_spec
from gossip_caffe.cli.terminal.output import print_json
from gossip_caffe.cli.terminal.streams import say
from gossip_caffe.cli.terminal.train_log import TakeEvent, train_log
from gossip_caffe.cli.terminal.train_screen import SHOWN, TrainScreen, train_screen
from gossip_caffe.cluster.view import Remembering
from gossip_caffe.errors import EnvironmentProblem, ExitCode, GossipCaffeError
from gossip_caffe.system.signals import Effect

if TYPE_CHECKING:
    from gossip_caffe.cluster.state.options import ClusterOptions
    from gossip_caffe.cluster.supervision.living_weights import LivingWeights
    from gossip_caffe.cluster.supervision.snapshot_files import SnapshotFiles
    from gossip_caffe.job.prototxts.snapshots import PlannedSnapshots
    from gossip_caffe.observe.log.tested import ConsensusTest


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a training. ``model``: the newest .caffemodel file; None when the solver file turns it off.

    ``state``: the .solverstate file from which a later run continues; None when no momentum could be saved.
    ``seconds``: the wall time. ``tested``: the newest test of the consensus, None when it was not tested.
    ``lacks``: the reason why the last checkpoint is missing although all iterations were trained; "" otherwise.
    ``code``: the exit code.
    """

    finished: bool
    iterations: int
    seconds: float
    model: Path | None
    state: Path | None
    snapshots: tuple[Path, ...]
    tested: ConsensusTest | None
    lacks: str = ""
    code: ExitCode = ExitCode.OK

    def to_record(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return {
            "finished": self.finished,
            "iterations": self.iterations,
            "seconds": round(self.seconds, 3),
            "model": str(self.model) if self.model is not None else None,
            "state": str(self.state) if self.state is not None else None,
            "snapshots": [str(path) for path in self.snapshots],
            "tested": self.tested.to_record() if self.tested is not None else None,
            "lacks": self.lacks or None,
        }


@click.command()
@click.argument("solver", type=click.Path())
@click.option(
    "--peers",
    type=click.IntRange(1, 256),
    help="The number of peers.  [default: 1, or one for each of --gpus]",
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
) -> None:
    """Train the net of a SOLVER file, and write its .caffemodel and .solverstate where Caffe would.

    The result is SNAPSHOT_PREFIX_iter_MAX_ITER.caffemodel; 'snapshot' in the solver file writes more on the way. etcd
    and the peers run only as long as the command. At Ctrl-C the peers share their weights, and the newest weights are
    written; --snapshot continues from them. SIGHUP writes a snapshot, and the training goes on. One peer reads, tests
    and writes snapshots as plain Caffe does.

    \b
    gossip-caffe train solver.prototxt
    gossip-caffe train solver.prototxt --snapshot lenet_iter_5000.solverstate
    gossip-caffe train solver.prototxt --peers 4
    gossip-caffe train solver.prototxt --gpus 0,1
    """
    from gossip_caffe.checkpoint.formats.hdf5 import hdf5_can_be_written
    from gossip_caffe.cluster.state.options import ClusterOptions
    from gossip_caffe.cluster.supervision.snapshot_files import SnapshotFiles
    from gossip_caffe.cluster.temporary import temporary_cluster
    from gossip_caffe.job.prototxts.snapshots import snapshots_of
    from gossip_caffe.job.shuffling import in_caffes_order
    from gossip_caffe.membership.etcd.etcd_channel import parse_endpoints

    endpoints = parse_endpoints(etcd) if etcd else ()
    tag = secrets.token_hex(3)
    # Only an etcd that others use may have a job of the same name.
    job_name = job_name or (f"{named_after(solver)}-{tag}" if etcd else named_after(solver))
    gpu_numbers, peers = gpus_of(gpus, peers, 1, engine)
    metrics_listen = metrics_of(metrics_listen or OFF, peers)
    spec = read_spec(
        job_name, solver, new, checked=engine == "pycaffe", on_gpus=bool(gpu_numbers), peers=peers
    )
    if peers == 1 and not any(entry.partition("=")[0].strip() == "shuffle" for entry in new.settings):
        spec = in_caffes_order(spec)
    of_peers = (
        *data_root_arguments(data_roots),
        *allow_code_arguments(allow_code),
        *event_log.arguments,
        "--snapshots",
    )
    plan = snapshots_of(spec, default_prefix=str(Path(solver).with_suffix("")))
    if plan.hdf5 and not hdf5_can_be_written():
        news = "snapshot_format HDF5 needs h5py, which is not installed: the files are written as .caffemodel"
        say(f"{news} (pip install 'gossip-caffe[hdf5]')", err=True)
        plan = dataclasses.replace(plan, hdf5=False)
    with temporary_cluster(tag) as state:
        snapshots = SnapshotFiles(plan, state.run, Path(solver).parent)
        snapshots.check()
        options = ClusterOptions(
            state,
            peers,
            job_name,
            spec,
            endpoints,
            engine,
            of_peers=of_peers,
            gpus=gpu_numbers,
            gives_up=True,
            metrics_listen=metrics_listen,
        )
        on_terminal = sys.stdout.isatty() and not as_json
        with (
            train_screen(spec.budget_samples, on_terminal=on_terminal, to_stderr=as_json) as screen,
            train_log(log_file, screen.say) as log,
        ):
            result = asyncio.run(
                _train(options, snapshots, screen, log, plan, effects_of(sigint_effect, sighup_effect))
            )
    if as_json:
        print_json(result.to_record())
    else:
        say(_last_line(result, plan.max_iter, solver))
    sys.exit(result.code)


async def _train(
    options: ClusterOptions,
    files: SnapshotFiles,
    screen: TrainScreen,
    log: TakeEvent,
    plan: PlannedSnapshots,
    effects: Mapping[signal.Signals, Effect],
) -> Result:
    """Run the cluster until the job is finished or interrupted. Raises GossipCaffeError when its peers fail."""
    from gossip_caffe.clock import SystemClock
    from gossip_caffe.cluster.supervision.asked_snapshot import AskedSnapshot
    from gossip_caffe.cluster.supervision.rescue import Rescue
    from gossip_caffe.cluster.supervision.result import end_of_unfinished
    from gossip_caffe.cluster.supervision.supervisor import Supervisor
    from gossip_caffe.observe.export.caffe_lines import KINDS
    from gossip_caffe.observe.log.following import LogFollower

    clock = SystemClock()
    began, failed = clock.monotonic(), ""

    happened = LogFollower(options.state.run / "events", SHOWN | KINDS)

    def look(status: dict[str, Any]) -> None:
        _tell(happened.new(), log, screen)
        screen.look(status)
        look_at_snapshots()
        asked.look()
        supervisor.step_s = screen.figures.seconds_of(
            options.spec.samples_per_iteration if options.spec else 0
        )

    def look_at_snapshots() -> None:
        nonlocal failed
        try:
            new = files.collect()
            for iteration, path in files.written.items():
                if path in new:
                    of = files.of_iteration[iteration]
                    screen.say(f"snapshot {path}" + (f" (of iteration {of:,})" if of != iteration else ""))
        except EnvironmentProblem as error:
            if str(error) != failed:
                failed = str(error)
                screen.say(failed)

    supervisor = Supervisor(options, screen.say)
    living = Rescue(supervisor, files)
    asked = AskedSnapshot(supervisor, files, clock, screen.say)
    go_down_on_signals(supervisor, effects, asked.ask)
    screen.say(f"more peers, or fewer: gossip-caffe cluster scale N --name {options.state.name}")
    try:
        await supervisor.run(Remembering(look))
    except GossipCaffeError as error:
        raise _with_folder(error, options) from None
    _tell(happened.new(), log, screen)  # the events since the last look
    look_at_snapshots()
    model = _written(files, supervisor.checkpoint, living.newest, options)
    if files.elsewhere:
        screen.say(files.elsewhere)
    # Peers that were asked to leave may have trained further than the last status shows.
    seen = plan.iteration_at(screen.figures.done_samples)
    of_model = [iteration for iteration, path in files.written.items() if path == model]
    iterations = max([*of_model] or [seen])
    # The job is finished as well when the budget is trained and only the last checkpoint could not be written.
    finished = bool(supervisor.checkpoint) or (model is not None and iterations >= plan.max_iter)
    if supervisor.gave_up and not finished:
        where = f"the weights at iteration {iterations:,} are in {model}" if model else "nothing was learned"
        problem = EnvironmentProblem(f"the job cannot be finished: {supervisor.gave_up}; {where}")
        raise _with_folder(problem, options)
    return Result(
        finished=finished,
        iterations=iterations,
        seconds=clock.monotonic() - began,
        model=model,
        state=files.states.get(iterations) if model is not None else None,
        snapshots=tuple(path for _, path in sorted(files.written.items())),
        tested=screen.figures.tested,
        lacks=supervisor.gave_up if not supervisor.checkpoint else "",
        code=ExitCode.OK if finished else end_of_unfinished(supervisor.down_reason),
    )


def _tell(events: Iterable[Mapping[str, Any]], log: TakeEvent, screen: TrainScreen) -> None:
    """Give new events to the log and to the screen."""
    for event in events:
        log(event)
        if event["event"] in SHOWN:
            screen.happened(event)


def _with_folder(error: GossipCaffeError, options: ClusterOptions) -> GossipCaffeError:
    """Return the error. Without a remedy of its own it names the folder with the logs and the checkpoints."""
    if not error.remedy and options.state.folder.exists():
        error.remedy = f"see {options.state.folder}"
    return error


def _written(
    files: SnapshotFiles, checkpoint: str, living: LivingWeights | None, options: ClusterOptions
) -> Path | None:
    """Write the result: the job's last checkpoint, else the weights of ``living`` peers, else the newest snapshot."""
    from gossip_caffe.cluster.temporary import KEPT_DAYS

    try:
        if checkpoint:
            return files.result(checkpoint)
        return files.newest() if living is None else files.save(living)
    except EnvironmentProblem as error:
        remedy = f"the weights are in {options.state.run}/checkpoints for {KEPT_DAYS} days"
        raise GossipCaffeError(error.message, remedy=remedy) from None


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
