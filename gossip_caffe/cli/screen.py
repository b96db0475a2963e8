"""A cluster as it is shown while it runs: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import click

from gossip_caffe.cli.output import rich_table
from gossip_caffe.cluster.view import HEADINGS, headline, rows

if TYPE_CHECKING:
    from rich.live import Live

PLAIN_EVERY_S = 5.0


class Screen(Protocol):
    """Where a cluster is shown."""

    def say(self, line: str) -> None:
        """One line for something that happened."""
        ...

    def look(self, status: dict[str, Any]) -> None:
        """The cluster as it is now."""
        ...


@contextmanager
def screen() -> Iterator[Screen]:
    """The one that fits standard output."""
    if not sys.stdout.isatty():
        yield _Lines()
        return
    from rich.live import Live  # noqa: PLC0415 - only where there is a terminal

    with Live(refresh_per_second=4) as live:
        yield _Table(live)


class _Table:
    """On a terminal: a live table, with what happens above it."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def say(self, line: str) -> None:
        """Print it above the table."""
        self._live.console.print(line, highlight=False, markup=False)

    def look(self, status: dict[str, Any]) -> None:
        """Draw the table anew."""
        self._live.update(rich_table(HEADINGS, rows(status), headline(status)))


class _Lines:
    """Where there is no terminal: the headline every few seconds."""

    def __init__(self) -> None:
        self._said_at = float("-inf")

    def say(self, line: str) -> None:
        """Print it."""
        click.echo(line)

    def look(self, status: dict[str, Any]) -> None:
        """Print the headline when the last one is some seconds ago."""
        if time.monotonic() - self._said_at >= PLAIN_EVERY_S:
            self._said_at = time.monotonic()
            click.echo(headline(status))
