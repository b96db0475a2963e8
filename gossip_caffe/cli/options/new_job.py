"""The options of a command that makes a job, and the job that they describe."""

# ruff: noqa: PLC0415 - heavy modules are imported when they are needed, so that --help and completion are quick

from __future__ import annotations

import dataclasses
import functools
import re
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossip_caffe.cli.terminal.output import told_when_slow
from gossip_caffe.cli.terminal.streams import say
from gossip_caffe.errors import ExitCode, ModelError, UsageError

if TYPE_CHECKING:
    from gossip_caffe.job.prototxts.label_origins import Shapes
    from gossip_caffe.job.reading import Model
    from gossip_caffe.job.spec.spec import JobSpec


@dataclass(frozen=True, slots=True)
class NewJob:
    """The options of a new job. ``settings``: each entry is "name=value"."""

    settings: tuple[str, ...] = ()
    weights: str = ""
    resume: str = ""
    dataset: str = ""
    unchecked: bool = False

    @property
    def arguments(self) -> list[str]:
        """The arguments that pass the given options on to another command, without ``--unchecked``."""
        named = {"--weights": self.weights, "--resume": self.resume, "--dataset": self.dataset}
        settings = [argument for setting in self.settings for argument in ("--set", setting)]
        return settings + [part for option, value in named.items() if value for part in (option, value)]


def new_job_options(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command with the options of a new job. The command receives them as one ``new``: NewJob."""

    @functools.wraps(command)
    def told(
        *args: Any,
        lr_scaling: str,
        settings: tuple[str, ...],
        weights: str,
        resume: str,
        dataset: str,
        unchecked: bool,
        **rest: Any,
    ) -> None:
        if lr_scaling:
            settings = (*settings, f"lr_scaling={lr_scaling}")
        command(*args, new=NewJob(settings, weights, resume, dataset, unchecked), **rest)

    for option in reversed(_OPTIONS):
        told = option(told)
    return told


_OPTIONS = (
    click.option(
        "--lr-scaling",
        default="",
        type=click.Choice(["", "sqrt", "linear", "none"]),
        metavar="[sqrt|linear|none]",
        help="The factor of the learning rate with N living peers: √N, N or 1.  [default: sqrt]",
    ),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        help="A setting of the job; docs/settings.md lists them.",
    ),
    click.option(
        "--weights",
        default="",
        metavar="FILE[,FILE…]",
        help="Start from the weights of these .caffemodel files, matched by layer name.",
    ),
    click.option(
        "--snapshot",
        "--resume",
        "resume",
        default="",
        metavar="FILE",
        help="Continue from a .solverstate file that 'gossip-caffe train' or plain Caffe wrote.",
    ),
    click.option(
        "--dataset",
        default="",
        metavar="MODULE:CALLABLE",
        help="Your own data set, which fills Input and MemoryData layers: docs/data.md.",
    ),
    click.option(
        "--unchecked",
        is_flag=True,
        help="Skip the check in which Caffe builds the nets once: for a machine without pycaffe.",
    ),
)


def read_spec(
    name: str, solver: str, new: NewJob, *, checked: bool = True, on_gpus: bool = False, peers: int = 0
) -> JobSpec:
    """Read the job of a solver file. Caffe builds its nets once, unless ``checked`` is False or ``new.unchecked``.

    ``on_gpus``: the command puts its peers on GPUs, so that no notice explains how. ``peers``: the number of peers
    that the command starts; 0: none.

    Raises UsageError, ModelError or DataError; EnvironmentProblem without pycaffe.
    """
    from gossip_caffe.system.kernel import refuse_without_kernel

    refuse_without_kernel()
    try:
        checked = checked and not new.unchecked
        return _read_spec(name, solver, new, checked=checked, on_gpus=on_gpus, peers=peers)
    except ModelError as error:
        # Nothing was started yet: a wrong file counts as a wrong argument.
        error.exit_code = ExitCode.USAGE
        raise


def _read_spec(name: str, solver: str, new: NewJob, *, checked: bool, on_gpus: bool, peers: int) -> JobSpec:
    from gossip_caffe.data.sources.source import measure
    from gossip_caffe.job.checks import check_loss
    from gossip_caffe.job.notices import notices
    from gossip_caffe.job.prototxts.label_bounds import shapes_from_text
    from gossip_caffe.job.prototxts.own_data import ranks_of
    from gossip_caffe.job.prototxts.starting import read_start
    from gossip_caffe.job.prototxts.testing import plan_of
    from gossip_caffe.job.reading import job_of, read_model, readable
    from gossip_caffe.job.spec.spec import JobSettings, with_overrides
    from gossip_caffe.membership.keys import checked_name
    from gossip_caffe.solver.checks.trial import ask_schema, try_with_caffe

    overrides = {}
    for entry in new.settings:
        key, equals, value = entry.partition("=")
        if not equals:
            raise UsageError(f"--set {entry}: no value", remedy="write --set NAME=VALUE")
        overrides[key.strip()] = value.strip()
    checked_name(name, "job")
    chosen = with_overrides(JobSettings(), overrides)
    try:
        model = read_model(Path(solver))
        with told_when_slow("reading the data …"):
            start = read_start(model.solver, model.paths, [new.weights] if new.weights else [], new.resume)
            spec = job_of(name, model, chosen, measure, start, new.dataset)
            ranks = ranks_of(model.train.sources, chosen, peers)
            spec = dataclasses.replace(spec, creation=secrets.token_hex(8), ranks=ranks)
    except ModelError:
        if checked:  # a field that this Caffe does not know is reported first: no other edit would help
            ask_schema(*readable(Path(solver)), lambda: say("Caffe reads the files …", err=True))
        raise
    if checked:
        news = "Caffe builds the nets once, to check them …"
        shapes = try_with_caffe(model, spec, measure, lambda: say(news, err=True))
    else:
        check_loss(model.train)
        shapes = tuple(shapes_from_text(net.layers) for net in (model.train, *model.tests))
    spec = _with_labels(model, spec, shapes)
    for notice in notices(model, spec, on_gpus=on_gpus, peers=peers, modules=sys.path):
        say(notice, err=True)
    if why_not := plan_of(spec).why_not:
        say(f"the consensus will not be tested: {why_not}", err=True)
    return spec


def _with_labels(model: Model, spec: JobSpec, shapes: tuple[Shapes, ...]) -> JobSpec:
    """Return the job with the bounds of its labels. ``shapes``: the blobs of the TRAIN net, then of each tested net.

    Raises DataError for a label that the net cannot take, unless the job skips such records.
    """
    from gossip_caffe.data.sample import look_at_labels, look_at_tested
    from gossip_caffe.job.prototxts.label_bounds import label_bounds, with_bounds
    from gossip_caffe.job.reading import tested_nets

    bounds = label_bounds(model.train.layers, shapes[0])
    spec = dataclasses.replace(spec, data=with_bounds(spec.data, bounds))
    with told_when_slow("checking the labels …"):
        if spec.settings.corrupt_records == "stop":
            look_at_labels(spec.data, spec.settings.seed)
        for test, (number, _) in zip(spec.tests, tested_nets(model), strict=True):
            net = model.tests[number]
            if wrong := look_at_tested(test, label_bounds(net.layers, shapes[1 + number])):
                say(f"tests of {net.document.name} will fail: {wrong}", err=True)
    return spec


def named_after(solver: str) -> str:
    """Make a job's name from the name of its solver file."""
    return re.sub(r"[^a-z0-9._-]+", "-", Path(solver).stem.lower()).strip("-._")[:50] or "job"
