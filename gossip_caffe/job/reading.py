"""From a user's solver.prototxt to a job: all checks that need no Caffe; messages name file and line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.job.nets import Layer, NetState, brings_data, present, source_layers
from gossip_caffe.job.paths import Paths, read_text
from gossip_caffe.job.prototxt import Document, Message
from gossip_caffe.job.relocation import with_paths
from gossip_caffe.job.rewriting import net_for_peer, solver_for_peer
from gossip_caffe.job.solvers import rate_schedule, solver_type, test_nets, train_net
from gossip_caffe.job.sources import Measure, read_data, read_tested
from gossip_caffe.job.spec import JobSettings, JobSpec, NetTest, StartSpec

_FRESH = StartSpec()
_CAFFE_MAY_NOT_READ = ("Data", "ImageData", "HDF5Data")


@dataclass(frozen=True, slots=True)
class PhaseNet:
    """A net in one phase: its text, and the state that chooses its layers. ``within``: where in the text it stands."""

    document: Document
    state: NetState
    within: Message | None = None

    @property
    def layers(self) -> list[Layer]:
        """The layers that are in it, in order."""
        return present(self.within or self.document.root, self.state)

    @property
    def sources(self) -> list[Layer]:
        """Those that bring data, or make it."""
        return [layer for layer in self.layers if brings_data(layer)]


@dataclass(frozen=True, slots=True)
class Model:
    """What a user's files describe, before anybody looked at the data. ``tests``: in the order of Caffe's test nets."""

    solver: Document
    paths: Paths
    train: PhaseNet
    tests: tuple[PhaseNet, ...]


def read_model(path: Path, working: Path | None = None) -> Model:
    """Read a solver file and its nets.

    Relative paths in it begin at ``working`` (the current folder), as for Caffe, and else at the solver's
    folder. Raises ModelError with file and line.
    """
    working = working or Path.cwd()
    paths = Paths(path.absolute().parent, working.absolute())
    solver = Document(read_text(path, "solver"), paths.shown(path))
    root = solver.root
    net = train_net(solver, paths)
    state = NetState("TRAIN").merged(net.root.message("state")).merged(root.message("train_state"))
    tests = tuple(
        PhaseNet(tested, NetState("TEST").merged(tested.root.message("state")).merged(given))
        for tested, given in test_nets(solver, net, paths)
    )
    return Model(solver, paths, PhaseNet(net, state), tests)


def read_job(
    name: str, path: Path, settings: JobSettings, measure: Measure, working: Path | None = None
) -> JobSpec:
    """Read the job that a solver file describes; relative paths as in ``read_model``.

    Raises ModelError or DataError with file and line.
    """
    return job_of(name, read_model(path, working), settings, measure)


def job_of(
    name: str,
    model: Model,
    settings: JobSettings,
    measure: Measure,
    start: StartSpec = _FRESH,
    dataset: str = "",
) -> JobSpec:
    """The job of a model that was read; ``dataset`` ("module:callable") fills the layers that a program fills.

    Raises ModelError or DataError with file and line.
    """
    solver, paths, net = model.solver, model.paths, model.train.document
    root = solver.root
    schedule, kind = rate_schedule(solver), solver_type(solver)
    iter_size = root.integer("iter_size", 1)
    if iter_size < 1:
        entry = root.last("iter_size")
        raise solver.error(entry.start if entry else 0, "iter_size must be positive", "give 1 or more")
    if root.integer("random_seed", -1) >= 0 and settings.seed == JobSettings().seed:
        settings = dataclasses.replace(settings, seed=root.integer("random_seed") % 2**31)
    left = schedule.max_iter - start.iteration
    if left <= 0:
        entry = root.last("max_iter")
        what = f"max_iter is {schedule.max_iter}, and the snapshot is of iteration {start.iteration}"
        raise solver.error(entry.start if entry else 0, what, "raise max_iter")
    sources = source_layers(net, net.root, model.train.state)
    data = read_data(net, sources, paths, iter_size, left * iter_size, measure, dataset)
    return JobSpec(
        name=name,
        solver_text=solver.text,
        train_net_text=located(net, paths),
        solver_for_peer=solver_for_peer(solver, net_for_peer(net, sources)),
        tests=tuple(_tests(model, measure)),
        solver_type=kind,
        iter_size=iter_size,
        budget_samples=left * data.batch_records * iter_size,
        data=data,
        schedule=dataclasses.replace(schedule, first_iteration=start.iteration),
        settings=settings,
        start=start,
    )


def _tests(model: Model, measure: Measure) -> Iterator[NetTest]:
    """The nets that are tested, but those without any data. Raises DataError for data that is not there."""
    iterations = [model.solver.integer_of(entry) for entry in model.solver.root.all("test_iter")]
    for tested, passes in zip(model.tests, iterations, strict=True):
        if not tested.sources or not passes:
            continue
        net, state = tested.document, tested.state
        fed = tuple(
            read_tested(net, layer, model.paths, measure, to_read=True)
            for layer in tested.sources
            if layer.type in _CAFFE_MAY_NOT_READ
        )
        stages = tuple(sorted(state.stages))
        yield NetTest(located(net, model.paths), passes, state.level, stages, fed)


def located(net: Document, paths: Paths) -> str:
    """Rewrite a net with its data layers' paths made absolute, so that it can be read from any folder."""
    return with_paths(net, lambda name: str(paths.resolve(name)))
