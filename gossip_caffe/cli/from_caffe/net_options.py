"""The options of a command that takes a net file without a solver."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from gossip_caffe.cli.from_caffe.tool_log import log_option, tool_log


@dataclass(frozen=True, slots=True)
class NetOptions:
    """The state that selects a net's layers, and the file for Caffe's lines."""

    level: int
    stages: tuple[str, ...]
    log_file: Path | None

    def log(self) -> AbstractContextManager[Callable[[str], None]]:
        """Return the log for Caffe's lines."""
        return tool_log(self.log_file)


def net_options(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command with the options. The command receives them as one ``net``: NetOptions."""

    @functools.wraps(command)
    def told(*args: Any, level: int, stage: str, log_file: Path | None, **rest: Any) -> None:
        stages = tuple(name.strip() for name in stage.split(",") if name.strip())
        command(*args, net=NetOptions(level, stages, log_file), **rest)

    for option in reversed(_OPTIONS):
        told = option(told)
    return told


_OPTIONS = (
    click.option(
        "--level", type=int, default=0, metavar="N", help="The level, for the layers' include rules."
    ),
    click.option(
        "--stage", default="", metavar="NAME[,NAME…]", help="The stages, for the layers' include rules."
    ),
    log_option,
)
