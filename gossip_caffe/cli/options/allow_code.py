"""The --allow-code option: True if this machine may run code that a job in etcd names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from gossip_caffe.job.code import ENVIRONMENT, OPTION

allow_code_option: Callable[[Any], Any] = click.option(
    OPTION + "/--no-allow-code",
    "allow_code",
    default=None,
    help="Run code that the job names (your own data sets, Python layers, HDF5Output). Any program that can write to "
    f"etcd can choose that code. Default: ${ENVIRONMENT}, else only with the etcd of a local cluster that has no port, "
    "and with an etcd that authenticates its users, over TLS.",
)


def allow_code_arguments(given: bool | None) -> tuple[str, ...]:
    """Return the arguments that pass the option on to another command; empty when it was not given."""
    return () if given is None else (OPTION if given else "--no-allow-code",)


def is_allowed(given: bool | None, *, ours: bool) -> bool | None:
    """True if this machine may run a job's code: ``places.is_allowed``, imported only when a command needs it."""
    from gossip_caffe.api import places  # noqa: PLC0415

    return places.is_allowed(given, ours=ours)
