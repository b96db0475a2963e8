"""The address at which the peers of this machine serve their metrics. This file imports nothing heavy."""

from __future__ import annotations

from gossip_caffe.addresses import split_address
from gossip_caffe.errors import UsageError

OPTION, OFF = "--metrics-listen", "none"


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
