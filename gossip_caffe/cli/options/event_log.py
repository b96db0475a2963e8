"""The options about a peer's event log, and about its copy for TensorBoard."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kKMGT]?)B?")
LEAST_BYTES = 1_000_000


class Size(click.ParamType[int]):
    """A size in bytes: "500MB", "2GB". ``least``: the smallest valid one."""

    name = "size"

    def __init__(self, least: int = 1) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse a size; click reports one that is none."""
        if isinstance(value, int):
            return value
        if (found := _SIZE.fullmatch(value.strip())) is None:
            self.fail(f"{value!r} is no size: write it like 500MB or 2GB", param, ctx)
        size = int(float(found[1]) * _UNITS[found[2].replace("K", "k")])
        if size < self._least:
            self.fail(f"{value} is too little: {self._least:,} bytes are the least", param, ctx)
        return size


_size_option = click.option(
    "--event-log-size",
    "event_log_bytes",
    type=Size(LEAST_BYTES),
    default=0,
    metavar="SIZE",
    help="Keep the event log of a peer below this size, for example 500MB: its oldest parts are removed. 'gossip-caffe "
    "verify' cannot judge all invariants without them.  [default: no limit]",
)


_part_option = click.option("--event-log-part", "event_log_part_bytes", type=Size(), default=0, hidden=True)


_tensorboard_option = click.option(
    "--tensorboard",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the loss, the learning rate, the consensus distance and the tests also to DIR/PEER, for TensorBoard.",
)


@dataclass(frozen=True, slots=True)
class EventLogOptions:
    """The values of these options. ``size_bytes`` and ``part_bytes``: 0 for the default."""

    size_bytes: int = 0
    part_bytes: int = 0
    tensorboard: Path | None = None

    @property
    def arguments(self) -> tuple[str, ...]:
        """The same options for the command of each peer."""
        size = ("--event-log-size", str(self.size_bytes)) if self.size_bytes else ()
        part = ("--event-log-part", str(self.part_bytes)) if self.part_bytes else ()
        board = ("--tensorboard", str(self.tensorboard.absolute())) if self.tensorboard is not None else ()
        return (*size, *part, *board)


def event_log_options(command: Command) -> Command:
    """Add the options to a command, which gets them as ``event_log``, an EventLogOptions."""

    @functools.wraps(command)
    def with_options(
        *arguments: Any,
        event_log_bytes: int,
        event_log_part_bytes: int,
        tensorboard: Path | None,
        **options: Any,
    ) -> Any:
        event_log = EventLogOptions(event_log_bytes, event_log_part_bytes, tensorboard)
        return command(*arguments, event_log=event_log, **options)

    return cast(Command, _size_option(_part_option(_tensorboard_option(with_options))))
