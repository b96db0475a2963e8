"""The display of a running cluster: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from gossip_caffe.cli.terminal.output import above, rich_table, terminal
from gossip_caffe.cli.terminal.streams import say
from gossip_caffe.cluster.view import HEADINGS, headline, rows

if TYPE_CHECKING:
    from rich.live import Live

PLAIN_EVERY_S = 5.0


class Screen(Protocol):
    """The display of a running cluster."""

    def say(self, line: str) -> None:
        """Print one line about an event."""
        ...

    def look(self, status: dict[str, Any]) -> None:
        """Show the cluster's newest status, as ``cluster status --json`` gives it."""
        ...


@contextmanager
def screen() -> Iterator[Screen]:
    """Yield the table if standard output is a terminal, else the lines."""
    if not sys.stdout.isatty():
        yield _Lines()
        return
    from rich.live import Live  # noqa: PLC0415 - only where there is a terminal

    with Live(refresh_per_second=4, console=terminal()) as live:
        yield _Table(live)


class _Table:
    """On a terminal: a live table of the peers, with events as lines above it."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def say(self, line: str) -> None:
        """Print the line above the table."""
        above(self._live.console, line)

    def look(self, status: dict[str, Any]) -> None:
        """Draw the table again, with the new status."""
        self._live.update(rich_table(HEADINGS, rows(status), headline(status)))


class _Lines:
    """Without a terminal: the headline every PLAIN_EVERY_S, and each event's line."""

    def __init__(self) -> None:
        self._said_at = float("-inf")

    def say(self, line: str) -> None:
        """Print the line."""
        say(line)

    def look(self, status: dict[str, Any]) -> None:
        """Print the headline if the last one was printed at least PLAIN_EVERY_S ago."""
        if time.monotonic() - self._said_at >= PLAIN_EVERY_S:
            self._said_at = time.monotonic()
            say(headline(status))
