"""The --metrics-listen option: the address at which peers serve their metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from gossip_caffe.addresses import split_address
from gossip_caffe.errors import UsageError

OPTION, OFF = "--metrics-listen", "none"


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


def metrics_of(metrics_listen: str, peers: int) -> str:
    """Return the address for each of ``peers`` peers of this machine; "": their default.

    Raises UsageError for a text that is no address, and for one port of several peers.
    """
    if metrics_listen in {"", OFF}:
        return metrics_listen
    _, port = split_address(metrics_listen, OPTION)
    if port and peers != 1:
        raise UsageError(
            f"{OPTION} {metrics_listen} is one port, and {peers} peers each need one",
            remedy="give port 0: each peer takes a free port, and 'gossip-caffe discover' lists them",
        )
    return metrics_listen
