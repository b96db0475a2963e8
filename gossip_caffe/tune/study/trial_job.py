"""The job of a trial: the study's texts with the trial's values, and the budget of samples in iterations.

Pure, except that the data is measured. The same trial gives the same job on every machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.errors import UsageError
from gossip_caffe.job.checks import check_loss
from gossip_caffe.job.prototxts.labels.bounds import label_bounds, shapes_from_text, with_bounds
from gossip_caffe.job.prototxts.own_data import ranks_of
from gossip_caffe.job.prototxts.paths import Paths
from gossip_caffe.job.prototxts.prototxt import Document, edited
from gossip_caffe.job.prototxts.sources import Measure
from gossip_caffe.job.prototxts.starting import read_start
from gossip_caffe.job.reading import Model, job_of, read_model
from gossip_caffe.job.spec.spec import JobSettings, JobSpec, with_overrides
from gossip_caffe.tune.study.fields import Edit, NetText, NoSuchField, layer_names, net_edit, solver_edit
from gossip_caffe.tune.study.parameters import Value
from gossip_caffe.tune.study.spec import NetFile, StudySpec

NET_FIELDS = ("net", "train_net", "test_net")
_INLINE = ("net_param", "train_net_param", "test_net_param")
OWN_FIELDS = ("max_iter", "test_interval")
"""The solver's fields that follow from a study's ``samples`` and ``tests``."""
_STEPS = ("stepsize", "stepvalue")
TRIAL_SETTINGS = {"keep_checkpoints": "2", "keep_best": "0"}
"""Settings of a trial's job that differ from the defaults: only its newest weights are of use."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A trial's length: ``max_iter`` iterations, a test each ``test_interval``, and the last test at the end."""

    max_iter: int
    test_interval: int


def budget_of(samples: int, tests: int, samples_per_iteration: int) -> Budget:
    """The whole iterations that come nearest to ``samples``, as ``tests`` equal parts."""
    interval = max(1, round(samples / (samples_per_iteration * tests)))
    return Budget(interval * tests, interval)


@dataclass(frozen=True, slots=True)
class TrialTexts:
    """The texts of a trial: the solver's, and each net's by its absolute path."""

    solver: str
    nets: dict[Path, str]


def nets_of(solver: Document, paths: Paths) -> tuple[NetFile, ...]:
    """The files that a solver names as nets, each once. Raises ModelError when one cannot be read."""
    found: dict[str, NetFile] = {}
    for entry in (entry for name in NET_FIELDS for entry in solver.root.all(name)):
        path = paths.resolve(solver.scalar_of(entry).text)
        if not paths.has(path):
            raise solver.error(entry.start, f"there is no net at {path}", "check the path")
        found.setdefault(str(path), NetFile(str(path), paths.read(path, "net")))
    return tuple(found.values())


def with_values(study: StudySpec, values: Mapping[str, Value]) -> TrialTexts:
    """The study's texts with the fixed values and a trial's own; all other text stays byte for byte.

    Raises NoSuchField, whose message begins with the path of the field.
    """
    solver = Document(study.solver.text, study.solver.path)
    documents = {file.path: Document(file.text, file.path) for file in study.nets}
    edits: dict[str, list[Edit]] = {path: [] for path in (study.solver.path, *documents)}
    nets = [NetText(document, document.root) for document in documents.values()]
    nets += [NetText(solver, message) for name in _INLINE for message in solver.root.messages(name)]
    for path, value in {**study.fixed, **values}.items():
        root, _, rest = path.partition(".")
        try:
            if root == "solver":
                edits[study.solver.path].append(solver_edit(solver, rest.split("."), value))
            elif root == "net":
                found = [(net, edit) for net in nets if (edit := net_edit(net, rest, value)) is not None]
                if not found:
                    known = ", ".join(dict.fromkeys(name for net in nets for name in layer_names(net)))
                    raise NoSuchField("no net has such a layer", remedy=f"layers: {known}")
                for net, edit in found:
                    edits[net.document.name].append(edit)
        except NoSuchField as error:
            raise NoSuchField(f"{path}: {error.message}", remedy=error.remedy) from None
    return TrialTexts(
        edited(solver.text, edits[study.solver.path]),
        {Path(path): edited(document.text, edits[path]) for path, document in documents.items()},
    )


def with_budget(solver_text: str, budget: Budget, tuned: Mapping[str, Value]) -> str:
    """A solver's text with that length. The learning rate's steps keep their places within the whole.

    ``tuned``: the values of the trial; a step that is one of them stays as it is.
    """
    solver = Document(solver_text, "solver")
    root = solver.root
    before = root.integer("max_iter")
    edits: list[Edit] = []
    for name, iterations in (("max_iter", budget.max_iter), ("test_interval", budget.test_interval)):
        if root.integer(name) != iterations:
            edits.append(solver_edit(solver, [name], iterations))
    for name in _STEPS:
        if f"solver.{name}" in tuned or before in {0, budget.max_iter}:
            continue
        for entry in root.all(name):
            scalar = solver.scalar_of(entry)
            scaled = max(1, round(solver.integer_of(entry) * budget.max_iter / before))
            edits.append((scalar.tokens[0].start, scalar.tokens[-1].end, str(scaled)))
    return edited(solver_text, edits)


@dataclass(frozen=True, slots=True)
class TrialJob:
    """A trial's job, with the texts and the model that it was made of."""

    spec: JobSpec
    texts: TrialTexts
    model: Model


def trial_job(
    study: StudySpec, number: int, attempt: int, values: Mapping[str, Value], measure: Measure
) -> TrialJob:
    """Make the job of a trial. Raises ModelError, DataError or UsageError."""
    texts = with_values(study, values)
    tuned = {**study.fixed, **values}
    settings = with_overrides(
        JobSettings(), {**TRIAL_SETTINGS, "checkpoint_store": study.store, **settings_of(tuned)}
    )
    model = _model(study, texts)
    start = read_start(model.solver, model.paths, [study.weights] if study.weights else [], "")
    name = study.job_name(number, attempt)
    unscaled = job_of(name, model, settings, measure, start)
    budget = budget_of(study.samples, study.tests, unscaled.samples_per_iteration)
    texts = dataclasses.replace(texts, solver=with_budget(texts.solver, budget, tuned))
    model = _model(study, texts)
    spec = job_of(name, model, settings, measure, start)
    check_loss(model.train)
    bounds = label_bounds(model.train.layers, shapes_from_text(model.train.layers))
    spec = dataclasses.replace(
        spec,
        data=with_bounds(spec.data, bounds),
        creation=f"{study.creation}-{number}-{attempt}",
        ranks=ranks_of(model.train.sources, settings, peers=1),
    )
    return TrialJob(spec, texts, model)


def settings_of(values: Mapping[str, Value]) -> dict[str, str]:
    """The job's settings among a trial's values, as text."""
    return {
        path.removeprefix("settings."): str(value).lower() if isinstance(value, bool) else str(value)
        for path, value in values.items()
        if path.startswith("settings.")
    }


def _model(study: StudySpec, texts: TrialTexts) -> Model:
    solver = Path(study.solver.path)
    model = read_model(solver, Path(study.working), texts={solver: texts.solver, **texts.nets})
    if not model.tests:
        raise UsageError(
            f"{study.solver.path}: the solver tests nothing, so trials cannot be compared",
            remedy="add test_iter and test_interval, and a TEST phase",
        )
    return model


def test_outputs(model: Model) -> dict[str, bool]:
    """The outputs of the model's test nets: name → whether the output is a loss."""
    found: dict[str, bool] = {}
    for net in model.tests:
        used = {bottom for layer in net.layers for bottom in layer.fields.texts("bottom")}
        for layer in net.layers:
            for top in layer.tops:
                if top not in used:
                    found.setdefault(top, layer.type.endswith("Loss"))
    return found
