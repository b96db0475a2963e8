"""What the commands that run a cluster on this machine have in common."""

# ruff: noqa: PLC0415 - what is heavy is imported by the command that needs it, so that --help and completion are quick

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gossip_caffe.cluster.supervisor import Supervisor


def data_root_words(data_roots: Sequence[str]) -> tuple[str, ...]:
    """``--data-root`` as each peer is given it. Raises UsageError when one is not OLD=NEW."""
    from gossip_caffe.job.relocation import DataRoot

    for root in data_roots:
        DataRoot.parse(root)
    return tuple(word for root in data_roots for word in ("--data-root", root))


def go_down_on_signals(supervisor: Supervisor) -> None:
    """Ctrl-C and its like take the cluster down in good order; call it within the event loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, supervisor.go_down, number.name)
