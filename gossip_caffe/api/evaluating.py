"""The test of a job's weights: of a checkpoint, of the living peers' mean, or of a file."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossip_caffe.api.values.html import table
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.formats.caffemodel import write_caffemodel
from gossip_caffe.checkpoint.manifest import MODEL
from gossip_caffe.errors import ModelError, NotFound, UsageError
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
from gossip_caffe.job.code import check_code
from gossip_caffe.job.prototxts.testing import plan_of
from gossip_caffe.job.spec.spec import JobSpec, NetTest
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.observe.log.ignored import Note, discard_note
from gossip_caffe.observe.log.tested import Output
from gossip_caffe.peer.outside_access import fetch, living_mean, progress_of
from gossip_caffe.solver.evaluation.evaluation import CaffeEvaluator

HEADINGS = ("NET", "OUTPUT", "MEAN", "LOSS")


@dataclass(frozen=True, slots=True)
class GivenWeights:
    """The weights that are tested. ``iteration``: the job's progress when they were made; None: unknown, for a file.

    ``model``: the .caffemodel file; ``under``: files that are loaded before it.
    ``contributors``: the peers whose weights were averaged.
    """

    model: Path
    name: str
    iteration: int | None = None
    checkpoint: str = ""
    contributors: tuple[str, ...] = ()
    under: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of a test. ``outputs``: the test nets' outputs, each averaged over the passes.

    ``weights``: the name of the tested weights; ``checkpoint``: "" for others. ``iteration``: the job's progress when
    they were made; None: unknown. ``contributors``: the peers whose weights were averaged.
    """

    job: str
    weights: str
    checkpoint: str
    iteration: int | None
    contributors: tuple[str, ...]
    outputs: tuple[Output, ...]

    def __getitem__(self, name: str) -> float:
        """Return the mean of the first output of that name, for example "accuracy". Raises KeyError without one."""
        for output in self.outputs:
            if output.name == name and output.scalar is not None:
                return output.scalar
        raise KeyError(name)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the rows of a table below HEADINGS."""
        return output_rows(self.outputs)

    def headline(self) -> str:
        """Return one line about the tested weights."""
        at = f" at iteration {self.iteration:,}" if self.iteration is not None else ""
        return f"job {self.job}, {self.weights}{at}"

    def to_record(self) -> dict[str, Any]:
        """Return everything as a JSON object."""
        return {
            "job": self.job,
            "weights": self.weights,
            "checkpoint": self.checkpoint or None,
            "iteration": self.iteration,
            "contributors": list(self.contributors),
            "outputs": [dataclasses.asdict(output) for output in self.outputs],
        }

    def _repr_html_(self) -> str:
        return table(HEADINGS, self.rows(), self.headline())


def output_rows(outputs: Sequence[Output]) -> list[tuple[str, ...]]:
    """Return the rows of outputs in a table below HEADINGS."""
    rows: list[tuple[str, ...]] = []
    for output in outputs:
        for index, mean in enumerate(output.means):
            name = output.name if output.values == 1 else f"{output.name}[{index}]"
            loss = f"{output.loss_weight * mean:.6g}" if output.loss_weight and mean is not None else ""
            rows.append((str(output.net), name, "nan" if mean is None else f"{mean:.6g}", loss))
        if more := output.values - len(output.means):
            rows.append((str(output.net), f"{output.name}: {more:,} more", "", ""))
    return rows


async def chosen_weights(
    store: EtcdStore,
    spec: JobSpec,
    scratch: Path,
    *,
    checkpoint: str = "",
    live: bool = False,
    allowed: bool,
    ignored: Note = discard_note,
) -> GivenWeights:
    """Fetch a checkpoint of the job, or with ``live`` the mean of the peers that train now, into ``scratch``."""
    check_code(spec, allowed=allowed)
    transport, rng = GrpcTransport(store.sockets, security=store.security), random.Random()
    try:
        folder = CheckpointFolder(scratch / "checkpoints")
        manifest = await fetch(store, transport, spec, checkpoint, folder, rng, ignored=ignored)
        if not live:
            model = folder.path(manifest.checkpoint, MODEL)
            name, iteration = (
                f"checkpoint {manifest.checkpoint}",
                spec.iteration_at(manifest.progress_samples),
            )
            return GivenWeights(model, name, iteration, manifest.checkpoint, manifest.contributors)
        layout, iteration = manifest.weight_layout(), spec.iteration_at(await progress_of(store, spec))
        agreed = await living_mean(store, transport, spec, layout, rng)
        with (scratch / MODEL).open("wb") as file:
            write_caffemodel(file, layout, agreed.weights)
        name = f"the mean of {', '.join(agreed.contributors)}"
        return GivenWeights(scratch / MODEL, name, iteration, "", agreed.contributors)
    finally:
        await transport.close()


def weights_of_file(weights: str | Path) -> GivenWeights:
    """Return the weights in .caffemodel files, with commas between their names. Raises NotFound."""
    *under, model = files_of(str(weights))
    return GivenWeights(model, str(weights), under=tuple(under))


def files_of(weights: str) -> list[Path]:
    """Return the weight files that a list names, absolute. Raises UsageError for none, NotFound for an absent one."""
    # A file whose name has a comma is found, too.
    names = [weights] if Path(weights).is_file() else weights.split(",")
    paths = [Path(name.strip()) for name in names if name.strip()]
    if not paths:
        raise UsageError("--weights names no file", remedy="give --weights FILE")
    for path in paths:
        if not path.is_file():
            raise NotFound(f"there is no weight file at {path}", remedy="check --weights")
    return [path.absolute() for path in paths]


def nets_to_test(spec: JobSpec, iterations: int) -> tuple[NetTest, ...]:
    """Return the test nets of a job; ``iterations``: passes of each, 0: test_iter. Raises ModelError without one."""
    plan = plan_of(spec)
    if not plan.nets:
        why = plan.why_not or "the solver names no test_iter, or its net has no TEST phase with data"
        raise ModelError(f"job {spec.name!r} cannot be tested: {why}", remedy="see 'Tests' in docs/cli.md")
    return tuple(dataclasses.replace(net, iterations=iterations or net.iterations) for net in plan.nets)


def _unseen(done: int, passes: int) -> None:
    del done, passes


async def evaluated(
    spec: JobSpec,
    nets: Sequence[NetTest],
    weights: GivenWeights,
    on_pass: Callable[[int, int], None] = _unseen,
) -> Evaluation:
    """Test weights, in a child process. ``on_pass`` is called with (passes done, passes in all). Raises ModelError."""
    evaluator = CaffeEvaluator(threads=0)
    outputs = (await evaluator.evaluate_all(nets, [weights.model], on_pass, weights.under))[0]
    return Evaluation(
        spec.name, weights.name, weights.checkpoint, weights.iteration, weights.contributors, outputs
    )
