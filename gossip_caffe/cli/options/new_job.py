"""The options of a command that makes a job, and the job that they describe."""

# ruff: noqa: PLC0415 - heavy modules are imported when they are needed, so that --help and completion are quick

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from gossip_caffe.api.starting.job_options import NewJob, named_after
from gossip_caffe.cli.terminal.output import told_when_slow
from gossip_caffe.cli.terminal.streams import say

if TYPE_CHECKING:
    from gossip_caffe.api.starting.new_job import Teller
    from gossip_caffe.job.spec.spec import JobSpec

__all__ = ["NewJob", "named_after", "new_job_options", "read_spec", "teller"]


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
        level: int | None,
        stage: str,
        **rest: Any,
    ) -> None:
        if lr_scaling:
            settings = (*settings, f"lr_scaling={lr_scaling}")
        command(*args, new=NewJob(settings, weights, resume, dataset, unchecked, level, stage), **rest)

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
        "--level", type=int, metavar="N", help="The level of the trained net, for its layers' include rules."
    ),
    click.option(
        "--stage",
        default="",
        metavar="NAME[,NAME…]",
        help="Stages of the trained net, for its layers' include rules, besides those of the solver file.",
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
    """Read the job of a solver file as ``api.starting.new_job.read_spec`` does; news of it goes to stderr."""
    from gossip_caffe.api.starting import new_job

    return new_job.read_spec(name, solver, new, checked=checked, on_gpus=on_gpus, peers=peers, tell=teller())


def teller() -> Teller:
    """Return the way in which a command is told about a job that is read: on stderr."""
    from gossip_caffe.api.starting.new_job import Teller

    return Teller(lambda line: say(line, err=True), told_when_slow)
