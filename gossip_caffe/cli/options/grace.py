"""The option for the time that a peer has for leaving."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from gossip_caffe.peer.core.lifecycle import GRACE_S

Command = TypeVar("Command", bound=Callable[..., Any])


def grace_option(help_text: str) -> Callable[[Command], Command]:
    """Add ``--grace`` to a command, which gets it as ``grace_s``, in seconds."""
    return click.option(
        "--grace",
        "grace_s",
        default=GRACE_S,
        show_default=True,
        metavar="SECONDS",
        type=click.FloatRange(0.5),
        help=help_text,
    )
