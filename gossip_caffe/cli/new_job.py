"""What a command that makes a job is told about it, and the job that comes of it."""

# ruff: noqa: PLC0415 - what is heavy is imported when it is needed, so that --help and completion are quick

from __future__ import annotations

import dataclasses
import functools
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossip_caffe.cli.output import told_when_slow
from gossip_caffe.errors import ExitCode, ModelError, UsageError

if TYPE_CHECKING:
    from gossip_caffe.job.spec import JobSpec


@dataclass(frozen=True, slots=True)
class NewJob:
    """The options of a new job. ``settings``: "name=value" each."""

    settings: tuple[str, ...] = ()
    weights: str = ""
    resume: str = ""
    dataset: str = ""
    unchecked: bool = False

    @property
    def words(self) -> list[str]:
        """The options that were given, as a command takes them; but ``--unchecked``."""
        named = {"--weights": self.weights, "--resume": self.resume, "--dataset": self.dataset}
        words = [word for setting in self.settings for word in ("--set", setting)]
        return words + [word for option, value in named.items() if value for word in (option, value)]


def new_job_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a new job, which reach it together as ``new``."""

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
        help="What N living peers multiply the learning rate by: √N, N or 1.  [default: sqrt]",
    ),
    click.option(
        "--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting; see docs/cli.md."
    ),
    click.option(
        "--weights",
        default="",
        metavar="FILE[,FILE…]",
        help="Begin with these .caffemodel files, by layer name.",
    ),
    click.option(
        "--resume", default="", metavar="FILE", help="Go on from the .solverstate of a plain Caffe."
    ),
    click.option(
        "--dataset",
        default="",
        metavar="MODULE:CALLABLE",
        help="What fills Input and MemoryData layers: docs/data.md.",
    ),
    click.option(
        "--unchecked",
        is_flag=True,
        help="Do not let Caffe build the nets first: for a machine without pycaffe.",
    ),
)


def read_spec(
    name: str, solver: str, new: NewJob, *, checked: bool = True, on_cards: bool = False
) -> JobSpec:
    """The job of a solver file; Caffe builds its nets once, unless not ``checked`` or the options say so.

    ``on_cards``: the command puts its peers on cards, and need not be told how.

    Raises UsageError, ModelError or DataError, and EnvironmentProblem without a Caffe.
    """
    try:
        return _read_spec(name, solver, new, checked=checked and not new.unchecked, on_cards=on_cards)
    except ModelError as error:
        # Nothing was started yet: wrong files are as wrong words of the command are.
        error.exit_code = ExitCode.USAGE
        raise


def _read_spec(name: str, solver: str, new: NewJob, *, checked: bool, on_cards: bool) -> JobSpec:
    from gossip_caffe.data.source import measure
    from gossip_caffe.job.checks import check_loss
    from gossip_caffe.job.notices import notices
    from gossip_caffe.job.reading import job_of, read_model
    from gossip_caffe.job.spec import JobSettings, with_overrides
    from gossip_caffe.job.starting import read_start
    from gossip_caffe.job.testing import plan_of
    from gossip_caffe.membership.keys import checked_name
    from gossip_caffe.solver.trial import try_with_caffe

    overrides = {}
    for entry in new.settings:
        key, equals, value = entry.partition("=")
        if not equals:
            raise UsageError(f"--set {entry}: no value", remedy="write --set NAME=VALUE")
        overrides[key.strip()] = value.strip()
    checked_name(name, "job")
    chosen = with_overrides(JobSettings(), overrides)
    model = read_model(Path(solver))
    with told_when_slow("looking at the data …"):
        start = read_start(model.solver, model.paths, [new.weights] if new.weights else [], new.resume)
        spec = job_of(name, model, chosen, measure, start, new.dataset)
        spec = dataclasses.replace(spec, creation=secrets.token_hex(8))
    if checked:
        news = "Caffe builds the nets once, to see that they stand …"
        try_with_caffe(model, spec, measure, lambda: click.echo(news, err=True))
    else:
        check_loss(model.train)
    for notice in notices(model, spec, on_cards=on_cards):
        click.echo(notice, err=True)
    if why_not := plan_of(spec).why_not:
        click.echo(f"the consensus will not be tested: {why_not}", err=True)
    return spec


def named_after(solver: str) -> str:
    """A name for the job of a solver file."""
    return re.sub(r"[^a-z0-9._-]+", "-", Path(solver).stem.lower()).strip("-._")[:50] or "job"
