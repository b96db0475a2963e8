"""From a user's solver.prototxt to a job, with all checks that do not need Caffe. Messages name file and line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from gossip_caffe.errors import ModelError
from gossip_caffe.job.prototxts.nets import Layer, NetState, brings_data, present, source_layers
from gossip_caffe.job.prototxts.paths import Paths, read_text
from gossip_caffe.job.prototxts.prototxt import Document, TextMessage
from gossip_caffe.job.prototxts.rewriting import net_for_peer, solver_for_peer
from gossip_caffe.job.prototxts.solvers import (
    check_regularization,
    rate_schedule,
    solver_type,
    test_nets,
    train_net,
    with_train_state,
)
from gossip_caffe.job.prototxts.sources import Measure, read_data, read_tested
from gossip_caffe.job.relocation import with_paths
from gossip_caffe.job.spec.spec import JobSettings, JobSpec, NetTest, StartSpec

_FRESH = StartSpec()
CAFFE_MAY_NOT_READ = ("Data", "ImageData", "HDF5Data")
_NO_TEXTS: Mapping[Path, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class PhaseNet:
    """A net in one phase: its text, and the state that selects its layers. ``within``: its position in the text."""

    document: Document
    state: NetState
    within: TextMessage | None = None

    @property
    def layers(self) -> list[Layer]:
        """The layers that the state selects, in order."""
        return present(self.within or self.document.root, self.state)

    @property
    def sources(self) -> list[Layer]:
        """The selected layers that bring or generate data."""
        return [layer for layer in self.layers if brings_data(layer)]


@dataclass(frozen=True, slots=True)
class Model:
    """The contents of a user's files, before the data was opened. ``tests``: in the order of Caffe's test nets."""

    solver: Document
    paths: Paths
    train: PhaseNet
    tests: tuple[PhaseNet, ...]


def read_model(
    path: Path,
    working: Path | None = None,
    *,
    level: int | None = None,
    stages: Sequence[str] = (),
    texts: Mapping[Path, str] = _NO_TEXTS,
) -> Model:
    """Parse a solver file and its nets.

    Relative paths in it begin at ``working`` (by default the current folder), as for Caffe, or else at the solver's
    folder. ``level``, ``stages``: additions to the solver's train_state. ``texts``: see ``Paths``.

    Raises ModelError with file and line.
    """
    working = working or Path.cwd()
    paths = Paths(path.absolute().parent, working.absolute(), texts)
    solver = with_train_state(Document(paths.read(path, "solver"), paths.shown(path)), level, stages)
    root = solver.root
    net = train_net(solver, paths)
    state = NetState("TRAIN").merged(net.root.message("state")).merged(root.message("train_state"))
    tests = tuple(
        PhaseNet(tested, NetState("TEST").merged(tested.root.message("state")).merged(given))
        for tested, given in test_nets(solver, net, paths)
    )
    return Model(solver, paths, PhaseNet(net, state), tests)


def readable(path: Path, working: Path | None = None) -> tuple[Document, tuple[PhaseNet, ...]]:
    """The solver and all of its nets that can be parsed, for a Caffe that will be asked about them.

    Raises ModelError when the solver itself cannot be parsed.
    """
    try:
        model = read_model(path, working)
    except ModelError:
        paths = Paths(path.absolute().parent, (working or Path.cwd()).absolute())
        solver = Document(read_text(path, "solver"), paths.shown(path))
        try:
            return solver, (PhaseNet(train_net(solver, paths), NetState("TRAIN")),)
        except ModelError:
            return solver, ()
    return model.solver, (model.train, *model.tests)


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
    """The job of a parsed model. ``dataset`` ("module:callable") fills the layers that a program fills in plain Caffe.

    Raises ModelError or DataError with file and line.
    """
    solver, paths, net = model.solver, model.paths, model.train.document
    root = solver.root
    schedule, kind = rate_schedule(solver), solver_type(solver)
    check_regularization(solver)
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
    passes, all_passes = left * iter_size, schedule.max_iter * iter_size
    data = read_data(net, sources, paths, iter_size, passes, all_passes, measure, dataset)
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
        source_texts=tuple(net.text[layer.place.start : layer.place.end] for layer in sources),
    )


def tested_nets(model: Model) -> list[tuple[int, int]]:
    """(Index, number of passes) of the model's nets that a job tests: all but those without any data."""
    iterations = [model.solver.integer_of(entry) for entry in model.solver.root.all("test_iter")]
    return [
        (number, passes)
        for number, (net, passes) in enumerate(zip(model.tests, iterations, strict=True))
        if net.sources and passes
    ]


def _tests(model: Model, measure: Measure) -> Iterator[NetTest]:
    """The test nets of the job. Raises DataError for missing data."""
    for number, passes in tested_nets(model):
        tested = model.tests[number]
        net, state = tested.document, tested.state
        fed = tuple(
            read_tested(net, layer, model.paths, measure, to_read=True)
            for layer in tested.sources
            if layer.type in CAFFE_MAY_NOT_READ
        )
        stages = tuple(sorted(state.stages))
        losses = model.solver.root.boolean("test_compute_loss")
        yield NetTest(located(net, model.paths), passes, state.level, stages, fed, losses)


def located(net: Document, paths: Paths) -> str:
    """The net's text with its data layers' paths made absolute, so that it does not depend on the working folder."""
    return with_paths(net, lambda name: str(paths.resolve(name)))
