"""``gossip-caffe train``: what ``caffe train`` does, with as many peers as you like."""

# ruff: noqa: PLC0415 - what is heavy is imported by the command that needs it, so that --help and completion are quick

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossip_caffe.cli.local_cluster import cards_of, data_root_words, go_down_on_signals, gpus_option
from gossip_caffe.cli.new_job import NewJob, named_after, new_job_options, read_spec
from gossip_caffe.cli.output import print_json
from gossip_caffe.cli.peer import data_root_option
from gossip_caffe.cli.train_screen import TrainScreen, train_screen
from gossip_caffe.errors import EnvironmentProblem, ExitCode, GossipCaffeError

if TYPE_CHECKING:
    from gossip_caffe.cluster.snapshot_files import SnapshotFiles
    from gossip_caffe.cluster.supervisor import ClusterOptions
    from gossip_caffe.observe.tested import ConsensusTest


@dataclass(frozen=True, slots=True)
class Result:
    """How it ended. ``model``: the newest weights that were written, None when the solver wants none."""

    finished: bool
    iterations: int
    seconds: float
    model: Path | None
    snapshots: tuple[Path, ...]
    tested: ConsensusTest | None

    def to_record(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "finished": self.finished,
            "iterations": self.iterations,
            "seconds": round(self.seconds, 3),
            "model": str(self.model) if self.model is not None else None,
            "snapshots": [str(path) for path in self.snapshots],
            "tested": self.tested.to_record() if self.tested is not None else None,
        }


@click.command()
@click.argument("solver", type=click.Path())
@click.option(
    "--peers",
    type=click.IntRange(1, 256),
    help="How many peers train it.  [default: 1, or one for each of --gpus]",
)
@gpus_option
@new_job_options
@data_root_option
@click.option("--etcd", default="", metavar="HOST:PORT[,…]", help="Use this etcd: others can join the job.")
@click.option("--job", "job_name", default="", help="The job's name in that etcd. [default: a new one]")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON; everything else goes to stderr."
)
@click.option("--engine", default="pycaffe", type=click.Choice(["pycaffe", "numpy"]), hidden=True)
def train(
    solver: str,
    peers: int | None,
    gpus: str,
    new: NewJob,
    data_roots: tuple[str, ...],
    etcd: str,
    job_name: str,
    as_json: bool,
    engine: str,
) -> None:
    """Train the net of a SOLVER file, and leave its .caffemodel where Caffe would.

    That is SNAPSHOT_PREFIX_iter_MAX_ITER.caffemodel, and one more for each 'snapshot' on the way. Everything else that
    it needs is there for as long as it runs. Ctrl-C: the peers share what they have learned, and the newest weights
    are written.

    \b
    gossip-caffe train solver.prototxt
    gossip-caffe train solver.prototxt --peers 4
    gossip-caffe train solver.prototxt --gpus 0,1
    """
    from gossip_caffe.cluster.snapshot_files import SnapshotFiles
    from gossip_caffe.cluster.supervisor import ClusterOptions
    from gossip_caffe.cluster.temporary import temporary_cluster
    from gossip_caffe.job.snapshots import snapshots_of
    from gossip_caffe.membership.etcd_channel import parse_endpoints

    endpoints = parse_endpoints(etcd) if etcd else ()
    tag = secrets.token_hex(3)
    # In an etcd of our own no other job is in its way.
    job_name = job_name or (f"{named_after(solver)}-{tag}" if etcd else named_after(solver))
    cards, peers = cards_of(gpus, peers, 1, engine)
    spec = read_spec(job_name, solver, new, checked=engine == "pycaffe", on_cards=bool(cards))
    of_peers = data_root_words(data_roots)
    plan = snapshots_of(spec, default_prefix=str(Path(solver).with_suffix("")))
    if plan.hdf5:
        click.echo("snapshot_format HDF5: the files are written as .caffemodel all the same", err=True)
    with temporary_cluster(tag) as state:
        snapshots = SnapshotFiles(plan, state.run)
        snapshots.check()
        options = ClusterOptions(
            state, peers, job_name, spec, endpoints, engine, of_peers=of_peers, cards=cards
        )
        on_terminal = sys.stdout.isatty() and not as_json
        with train_screen(spec.budget_samples, on_terminal=on_terminal, to_stderr=as_json) as screen:
            result = asyncio.run(_train(options, snapshots, screen, plan.iteration_at))
    if as_json:
        print_json(result.to_record())
    else:
        click.echo(_last_line(result, plan.max_iter, solver))
    sys.exit(ExitCode.OK if result.finished else ExitCode.INTERRUPTED)


async def _train(
    options: ClusterOptions,
    files: SnapshotFiles,
    screen: TrainScreen,
    iteration_at: Callable[[int], int],
) -> Result:
    """Run the cluster to its end. Raises GossipCaffeError when its peers fail."""
    from gossip_caffe.clock import SystemClock
    from gossip_caffe.cluster.supervisor import Supervisor

    clock = SystemClock()
    began, failed = clock.monotonic(), ""

    def look(status: dict[str, Any]) -> None:
        nonlocal failed
        screen.look(status)
        try:
            for path in files.collect():
                screen.say(f"snapshot {path}")
        except EnvironmentProblem as error:
            if str(error) != failed:
                failed = str(error)
                screen.say(failed)

    supervisor = Supervisor(options, screen.say)
    go_down_on_signals(supervisor)
    screen.say(f"more peers, or fewer: gossip-caffe cluster scale N --name {options.state.name}")
    await supervisor.run(look)
    finished = bool(supervisor.checkpoint)
    model = _written(files, supervisor.checkpoint, options)
    # Peers that were asked to leave may have gone a little further than was seen of them.
    seen = iteration_at(screen.figures.done_samples)
    iterations = max(seen, *(iteration for iteration, path in files.written.items() if path == model), 0)
    return Result(
        finished=finished,
        iterations=iterations,
        seconds=clock.monotonic() - began,
        model=model,
        snapshots=tuple(path for _, path in sorted(files.written.items())),
        tested=screen.figures.tested,
    )


def _written(files: SnapshotFiles, checkpoint: str, options: ClusterOptions) -> Path | None:
    try:
        return files.result(checkpoint) if checkpoint else files.newest()
    except EnvironmentProblem as error:
        remedy = f"the weights are in {options.state.run}/checkpoints until the next 'gossip-caffe train'"
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
        return f"interrupted at iteration {result.iterations:,} of {max_iter:,}: {result.model}; next: {following}"
    return f"trained: {result.model}; next: {following}"
