"""The options of a job and of a training, as keyword arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from gossip_caffe.api.starting.job_options import NewJob
from gossip_caffe.security.security import Security


class JobOptions(TypedDict, total=False):
    """The keyword arguments by which a job is made of a solver file. Each may be left out."""

    settings: Mapping[str, object]
    """The job's settings (docs/settings.md), for example ``{"lr_scaling": "none"}``."""
    weights: str | Path
    """Start from the weights of these .caffemodel files (with commas between them), matched by layer name."""
    snapshot: str | Path
    """Continue from a .solverstate file."""
    dataset: str
    """Your own data set, "MODULE:CALLABLE" (docs/data.md)."""
    level: int
    """The level of the trained net, for the include rules of its layers, in place of that of the solver file."""
    stage: str | Sequence[str]
    """Stages of the trained net, for the same rules, besides those of the solver file: names, or "NAME,NAME"."""
    unchecked: bool
    """Skip the check in which Caffe builds the nets once."""


class TrainOptions(JobOptions, total=False):
    """The keyword arguments of ``train`` and ``start``, beside those of ``JobOptions``. Each may be left out."""

    gpus: str
    """The numbers of NVIDIA GPUs, for example "0,1": one peer for each."""
    etcd: str
    """Use the etcd at "host:port", so that other machines can join the job. Default: an etcd of its own."""
    job: str
    """The job's name in that etcd. Default: a new name."""
    security: Security
    """The identity of its processes, of ``identity``. Default: that of the environment."""
    data_roots: Sequence[str]
    """"OLD=NEW": folders of the data that have another place on this machine."""
    allow_code: bool
    """Let the peers run code that the job names."""
    on_line: Callable[[str], None]
    """Is called with each line of news, in another thread. Default: the lines go to the logger "gossip_caffe"."""
    engine: str
    """"pycaffe"; "numpy" is for tests."""


def new_job(options: JobOptions) -> NewJob:
    """Return the options of a new job in the form that the command line has them."""
    stage = options.get("stage", "")
    return NewJob(
        tuple(f"{name}={value}" for name, value in options.get("settings", {}).items()),
        str(options.get("weights", "")),
        str(options.get("snapshot", "")),
        options.get("dataset", ""),
        options.get("unchecked", False),
        options.get("level"),
        stage if isinstance(stage, str) else ",".join(stage),
    )
