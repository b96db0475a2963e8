"""``gossip-caffe evaluate``: test a job's weights on its test data."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import asyncio
import dataclasses
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossip_caffe.cli.options.allow_code import allow_code_option, is_allowed
from gossip_caffe.cli.options.data_root import data_root_option
from gossip_caffe.cli.options.etcd import EtcdPlace, etcd_options, with_store
from gossip_caffe.cli.options.job import job_option
from gossip_caffe.cli.options.new_job import NewJob, named_after, read_spec
from gossip_caffe.cli.terminal.output import print_json, print_table, said_on_stderr, terminal
from gossip_caffe.errors import ModelError, NotFound, UsageError

if TYPE_CHECKING:
    from gossip_caffe.job.spec.spec import JobSpec, NetTest
    from gossip_caffe.membership.etcd.etcd_store import EtcdStore
    from gossip_caffe.observe.log.tested import Output


@dataclass(frozen=True, slots=True)
class GivenWeights:
    """The weights that are tested. ``iteration``: the job's progress when they were made; None: unknown, for a file.

    ``model``: the .caffemodel file. ``contributors``: the peers whose weights were averaged.
    """

    model: Path
    name: str
    iteration: int | None = None
    checkpoint: str = ""
    contributors: tuple[str, ...] = ()


@click.command()
@job_option
@click.option("--checkpoint", default="", metavar="ID", help="The checkpoint to test. [default: the newest]")
@click.option(
    "--live", is_flag=True, help="Test the mean of the peers that train now, instead of a checkpoint."
)
@click.option(
    "--weights", default="", metavar="FILE", help="Test a .caffemodel file, instead of a checkpoint."
)
@click.option(
    "--solver", default="", help="Take the test nets from this solver file, without a job; needs --weights."
)
@click.option(
    "--iterations",
    default=0,
    type=click.IntRange(0),
    help="The number of batches. [default: the solver's test_iter]",
)
@data_root_option
@allow_code_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@etcd_options
def evaluate(
    job: str,
    checkpoint: str,
    live: bool,
    weights: str,
    solver: str,
    iterations: int,
    data_roots: tuple[str, ...],
    allow_code: bool | None,
    as_json: bool,
    place: EtcdPlace,
) -> None:
    """Run the TEST phase on a job's newest checkpoint, and print the mean of each output.

    This machine reads the test data. Peers that train are not disturbed.

    \b
    gossip-caffe evaluate
    gossip-caffe evaluate --job mnist --etcd 10.0.0.5:2379 --live
    gossip-caffe evaluate --solver solver.prototxt --weights lenet_iter_10000.caffemodel
    """
    from gossip_caffe.job.relocation import DataRoot, relocated

    if sum(map(bool, (checkpoint, live, weights))) > 1:
        raise UsageError("--checkpoint, --live and --weights exclude each other", remedy="give one of them")
    if solver and not weights:
        raise UsageError("--solver goes with a file", remedy="give --weights FILE, or --job NAME instead")
    allowed = is_allowed(allow_code, ours=place.is_local)
    roots = [DataRoot.parse(root) for root in data_roots]
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-") as scratch:
        if solver:
            spec = read_spec(named_after(solver), solver, NewJob(), checked=False)
            chosen = _file(weights)
        else:
            spec, chosen = with_store(
                place,
                lambda store: _chosen(store, job, checkpoint, live, weights, Path(scratch), allowed=allowed),
            )
        nets = _nets(relocated(spec, roots), iterations)
        with _bar(shown=not as_json) as on_pass:
            outputs = asyncio.run(_evaluated(nets, chosen.model, on_pass))
    if as_json:
        print_json(_record(spec, chosen, outputs))
        return
    at = f" at iteration {chosen.iteration:,}" if chosen.iteration is not None else ""
    print_table(("NET", "OUTPUT", "MEAN", "LOSS"), _rows(outputs), f"job {spec.name}, {chosen.name}{at}")


async def _chosen(
    store: EtcdStore, job: str, checkpoint: str, live: bool, weights: str, scratch: Path, *, allowed: bool
) -> tuple[JobSpec, GivenWeights]:
    """Read the job from etcd, and fetch the weights that the options name into ``scratch``."""
    from gossip_caffe.checkpoint.files import CheckpointFolder
    from gossip_caffe.checkpoint.formats.caffemodel import write_caffemodel
    from gossip_caffe.checkpoint.manifest import MODEL
    from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
    from gossip_caffe.job.code import check_code
    from gossip_caffe.membership.jobs import job_or_only_one
    from gossip_caffe.peer.outside_access import fetch, living_mean, progress_of

    spec = await job_or_only_one(store, job)
    check_code(spec, allowed=allowed)
    if weights:
        return spec, _file(weights)
    transport, rng = GrpcTransport(store.sockets), random.Random()
    try:
        folder = CheckpointFolder(scratch / "checkpoints")
        manifest = await fetch(store, transport, spec, checkpoint, folder, rng, ignored=said_on_stderr)
        if not live:
            model = folder.path(manifest.checkpoint, MODEL)
            name, iteration = (
                f"checkpoint {manifest.checkpoint}",
                spec.iteration_at(manifest.progress_samples),
            )
            return spec, GivenWeights(model, name, iteration, manifest.checkpoint, manifest.contributors)
        layout, iteration = manifest.weight_layout(), spec.iteration_at(await progress_of(store, spec))
        agreed = await living_mean(store, transport, spec, layout, rng)
        with (scratch / MODEL).open("wb") as file:
            write_caffemodel(file, layout, agreed.weights)
        name = f"the mean of {', '.join(agreed.contributors)}"
        return spec, GivenWeights(scratch / MODEL, name, iteration, "", agreed.contributors)
    finally:
        await transport.close()


def _file(weights: str) -> GivenWeights:
    path = Path(weights)
    if not path.is_file():
        raise NotFound(f"there is no weight file at {path}", remedy="check --weights")
    return GivenWeights(path.absolute(), weights)


def _nets(spec: JobSpec, iterations: int) -> tuple[NetTest, ...]:
    from gossip_caffe.job.prototxts.testing import plan_of

    plan = plan_of(spec)
    if not plan.nets:
        why = plan.why_not or "the solver names no test_iter, or its net has no TEST phase with data"
        raise ModelError(f"job {spec.name!r} cannot be tested: {why}", remedy="see 'Tests' in docs/cli.md")
    return tuple(dataclasses.replace(net, iterations=iterations or net.iterations) for net in plan.nets)


async def _evaluated(
    nets: tuple[NetTest, ...], model: Path, on_pass: Callable[[int, int], None]
) -> tuple[Output, ...]:
    from gossip_caffe.solver.evaluation.evaluation import CaffeEvaluator

    return (await CaffeEvaluator(threads=0).evaluate_all(nets, [model], on_pass))[0]


@contextmanager
def _bar(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar if ``shown`` and on a terminal. Yields a function to be called with (passes done, in all)."""
    if not (shown and sys.stdout.isatty()):
        yield _unseen
        return
    from rich.progress import Progress

    with Progress(transient=True, console=terminal()) as bar:
        task = bar.add_task("testing", total=None)
        yield lambda done, passes: bar.update(task, completed=done, total=passes)


def _unseen(done: int, passes: int) -> None:
    del done, passes


def _rows(outputs: tuple[Output, ...]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for output in outputs:
        for index, mean in enumerate(output.means):
            name = output.name if output.values == 1 else f"{output.name}[{index}]"
            loss = f"{output.loss_weight * mean:.6g}" if output.loss_weight and mean is not None else ""
            rows.append((str(output.net), name, "nan" if mean is None else f"{mean:.6g}", loss))
        if more := output.values - len(output.means):
            rows.append((str(output.net), f"{output.name}: {more:,} more", "", ""))
    return rows


def _record(spec: JobSpec, chosen: GivenWeights, outputs: tuple[Output, ...]) -> dict[str, Any]:
    return {
        "job": spec.name,
        "weights": chosen.name,
        "checkpoint": chosen.checkpoint or None,
        "iteration": chosen.iteration,
        "contributors": list(chosen.contributors),
        "outputs": [dataclasses.asdict(output) for output in outputs],
    }
