"""The --metrics-listen option: the address at which peers serve their metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from gossip_caffe.api.starting.metrics_address import OFF, OPTION, metrics_of

__all__ = ["OFF", "OPTION", "metrics_of", "metrics_option"]


def metrics_option(default: str) -> Callable[[Any], Any]:
    """Make the option. ``default``: the last sentence of its help, which names the default."""
    option: Callable[[Any], Any] = click.option(
        OPTION,
        "metrics_listen",
        default="",
        metavar="HOST:PORT|none",
        help=f"The address at which a peer serves /metrics, /healthz and /readyz; port 0: any free port. {default}",
    )
    return option
