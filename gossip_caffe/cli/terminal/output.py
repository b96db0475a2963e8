"""How commands print: tables on a terminal, plain aligned text elsewhere, JSON on request.

Names, reasons and errors often come from other machines. This file, and the streams of ``streams`` below it, remove
characters that would steer a terminal or break a line; no other part of the package does.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click

from gossip_caffe.background import thread
from gossip_caffe.cli.terminal.streams import drawing, say
from gossip_caffe.cluster.view import plain
from gossip_caffe.plain import shown as shown_name
from gossip_caffe.printable import json_text, printable_line

if TYPE_CHECKING:
    from rich.console import Console

SLOW_AFTER_S = 2.0


def terminal(stream: TextIO | None = None) -> Console:
    """Return rich's console on standard output, or on another stream. All text for it has to be ``printable``."""
    from rich.console import Console  # noqa: PLC0415 - --help must not wait for it

    return Console(file=drawing(stream if stream is not None else sys.stdout))


def above(console: Console, line: str) -> None:
    """Print one line above a live display, with the same care as ``say``."""
    from rich.text import Text  # noqa: PLC0415

    console.print(Text(printable_line(line)))


def said_on_stderr(key: str, revision: int, why: str) -> None:
    """Print on stderr that a record in etcd is ignored, with its key, its revision (0: unknown) and the reason."""
    at = f" (revision {revision:,})" if revision else ""
    say(f"etcd: {shown_name(key)}{at} is ignored: {why}", err=True)


@contextmanager
def told_when_slow(news: str) -> Iterator[None]:
    """Print ``news`` on stderr, once, when the block takes longer than SLOW_AFTER_S."""
    over = threading.Event()

    def tell() -> None:
        if not over.wait(SLOW_AFTER_S):
            say(news, err=True)

    telling = thread(tell, "news")
    try:
        yield
    finally:
        over.set()
        telling.join()


@contextmanager
def transfer(news: str, *, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Show a slow transfer's progress on stderr: a bar on a terminal, one line elsewhere, nothing unless ``shown``.

    Yields a function to be called with (bytes received, bytes in all).
    """
    if not shown:
        yield _unseen
        return
    if not sys.stderr.isatty():
        with told_when_slow(f"{news} …"):
            yield _unseen
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=terminal(sys.stderr), transient=True) as bar:
        task = bar.add_task(printable_line(news), total=None, visible=False)

        def on_bytes(done: int, total: int) -> None:
            slow = time.monotonic() - began > SLOW_AFTER_S
            bar.update(task, completed=done, total=total, visible=slow)

        yield on_bytes


def _unseen(done: int, total: int) -> None:
    del done, total


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(json_text(value, indent=2, sort_keys=True))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table on stdout, below its ``title``."""
    if sys.stdout.isatty():
        terminal().print(rich_table(headings, rows, title))
        return
    if title:
        say(title)
    click.echo(plain(tuple(headings), [tuple(row) for row in rows]))


def rich_table(headings: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Any:
    """Return the table as rich draws it."""
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    shown = Text(printable_line(title)) if title else None
    table = Table(*headings, title=shown, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(printable_line(cell)) for cell in row))
    return table
