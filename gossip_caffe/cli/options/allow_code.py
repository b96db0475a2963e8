"""The --allow-code option: True if this machine may run code that a job in etcd names."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

from gossip_caffe.errors import UsageError
from gossip_caffe.job.code import ENVIRONMENT, OPTION

_SAID = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}

allow_code_option: Callable[[Any], Any] = click.option(
    OPTION + "/--no-allow-code",
    "allow_code",
    default=None,
    help="Run code that the job names (your own data sets, Python layers, HDF5Output). Any program that can write to "
    f"etcd can choose that code. Default: ${ENVIRONMENT}, else only with the etcd of a local cluster.",
)


def allow_code_arguments(given: bool | None) -> tuple[str, ...]:
    """Return the arguments that pass the option on to another command; empty when it was not given."""
    return () if given is None else (OPTION if given else "--no-allow-code",)


def is_allowed(given: bool | None, *, ours: bool) -> bool:
    """True if this machine may run a job's code. ``ours``: the etcd belongs to a local cluster of this user.

    ``given``: the option; None reads the environment variable. Raises UsageError when the variable is neither yes
    nor no.
    """
    if given is not None:
        return given
    said = os.environ.get(ENVIRONMENT, "").strip().lower()
    if not said:
        return ours
    if said not in _SAID:
        raise UsageError(f"{ENVIRONMENT}={said!r:.40}: neither yes nor no", remedy="set it to 1 or 0")
    return _SAID[said]
