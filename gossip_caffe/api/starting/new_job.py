"""The job of a solver file: read, checked by Caffe, and told about."""

from __future__ import annotations

import dataclasses
import secrets
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.api.starting.job_options import NewJob
from gossip_caffe.data.sample import look_at_labels, look_at_tested
from gossip_caffe.data.sources.source import measure
from gossip_caffe.errors import ExitCode, ModelError, UsageError
from gossip_caffe.job.checks import check_loss
from gossip_caffe.job.notices import notices
from gossip_caffe.job.prototxts.labels.bounds import label_bounds, shapes_from_text, with_bounds
from gossip_caffe.job.prototxts.labels.origins import Shapes
from gossip_caffe.job.prototxts.own_data import ranks_of
from gossip_caffe.job.prototxts.solvers import stages_of
from gossip_caffe.job.prototxts.starting import read_start
from gossip_caffe.job.prototxts.testing import plan_of
from gossip_caffe.job.reading import Model, job_of, read_model, readable, tested_nets
from gossip_caffe.job.spec.spec import JobSettings, JobSpec, with_overrides
from gossip_caffe.membership.keys import checked_name
from gossip_caffe.solver.checks.trial import ask_schema, try_with_caffe
from gossip_caffe.system.kernel import refuse_without_kernel


@dataclass(frozen=True, slots=True)
class Teller:
    """The ways in which a caller is told. ``say``: one line of news; ``slow``: news of a block that takes long."""

    say: Callable[[str], None] = lambda _: None
    slow: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext()


SILENT = Teller()


def read_spec(
    name: str,
    solver: str,
    new: NewJob,
    *,
    checked: bool = True,
    on_gpus: bool = False,
    peers: int = 0,
    tell: Teller = SILENT,
) -> JobSpec:
    """Read the job of a solver file. Caffe builds its nets once, unless ``checked`` is False or ``new.unchecked``.

    ``on_gpus``: the caller puts its peers on GPUs, so that no notice explains how. ``peers``: the number of peers
    that the caller starts; 0: none.

    Raises UsageError, ModelError or DataError; EnvironmentProblem without pycaffe.
    """
    refuse_without_kernel()
    try:
        checked = checked and not new.unchecked
        return _read_spec(name, solver, new, checked=checked, on_gpus=on_gpus, peers=peers, tell=tell)
    except ModelError as error:
        # Nothing was started yet: a wrong file counts as a wrong argument.
        error.exit_code = ExitCode.USAGE
        raise


def _read_spec(
    name: str, solver: str, new: NewJob, *, checked: bool, on_gpus: bool, peers: int, tell: Teller
) -> JobSpec:
    overrides = {}
    for entry in new.settings:
        key, equals, value = entry.partition("=")
        if not equals:
            raise UsageError(f"--set {entry}: no value", remedy="write --set NAME=VALUE")
        overrides[key.strip()] = value.strip()
    checked_name(name, "job")
    chosen = with_overrides(JobSettings(), overrides)
    try:
        model = read_model(Path(solver), level=new.level, stages=stages_of(new.stage))
        with tell.slow("reading the data …"):
            start = read_start(model.solver, model.paths, [new.weights] if new.weights else [], new.resume)
            spec = job_of(name, model, chosen, measure, start, new.dataset)
            ranks = ranks_of(model.train.sources, chosen, peers)
            spec = dataclasses.replace(spec, creation=secrets.token_hex(8), ranks=ranks)
    except ModelError:
        if checked:  # a field that this Caffe does not know is reported first: no other edit would help
            ask_schema(*readable(Path(solver)), lambda: tell.say("Caffe reads the files …"))
        raise
    if checked:
        news = "Caffe builds the nets once, to check them …"
        shapes = try_with_caffe(model, spec, measure, lambda: tell.say(news))
    else:
        check_loss(model.train)
        shapes = tuple(shapes_from_text(net.layers) for net in (model.train, *model.tests))
    spec = _with_labels(model, spec, shapes, tell)
    for notice in notices(model, spec, on_gpus=on_gpus, peers=peers, modules=sys.path):
        tell.say(notice)
    if why_not := plan_of(spec).why_not:
        tell.say(f"the consensus will not be tested: {why_not}")
    return spec


def _with_labels(model: Model, spec: JobSpec, shapes: tuple[Shapes, ...], tell: Teller) -> JobSpec:
    """Return the job with the bounds of its labels. ``shapes``: the blobs of the TRAIN net, then of each tested net.

    Raises DataError for a label that the net cannot take, unless the job skips such records.
    """
    bounds = label_bounds(model.train.layers, shapes[0])
    spec = dataclasses.replace(spec, data=with_bounds(spec.data, bounds))
    with tell.slow("checking the labels …"):
        if spec.settings.corrupt_records == "stop":
            look_at_labels(spec.data, spec.settings.seed)
        for test, (number, _) in zip(spec.tests, tested_nets(model), strict=True):
            net = model.tests[number]
            if wrong := look_at_tested(test, label_bounds(net.layers, shapes[1 + number])):
                tell.say(f"tests of {net.document.name} will fail: {wrong}")
    return spec
