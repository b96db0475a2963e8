"""How commands print: tables on a terminal, plain aligned text elsewhere, JSON on request."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from gossip_caffe.cluster.view import plain

SLOW_AFTER_S = 2.0


@contextmanager
def told_when_slow(news: str) -> Iterator[None]:
    """Say on stderr what goes on, once, when it takes a while."""
    timer = threading.Timer(SLOW_AFTER_S, lambda: click.echo(news, err=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


@contextmanager
def transfer(news: str, *, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Show how far a transfer is, to be told (bytes here, bytes in all), when it takes a while.

    On a terminal by a bar, elsewhere by one line; with ``shown`` False by nothing. It goes to stderr.
    """
    if not shown:
        yield _unseen
        return
    if not sys.stderr.isatty():
        with told_when_slow(f"{news} …"):
            yield _unseen
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    began = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(news, total=None, visible=False)

        def on_bytes(done: int, total: int) -> None:
            slow = time.monotonic() - began > SLOW_AFTER_S
            bar.update(task, completed=done, total=total, visible=slow)

        yield on_bytes


def _unseen(done: int, total: int) -> None:
    del done, total


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, sort_keys=True))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """A table; with ``title`` above it."""
    if sys.stdout.isatty():
        from rich.console import Console  # noqa: PLC0415 - --help must not wait for it

        Console().print(rich_table(headings, rows, title))
        return
    if title:
        click.echo(title)
    click.echo(plain(tuple(headings), [tuple(row) for row in rows]))


def rich_table(headings: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Any:
    """The table as rich draws it."""
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(*headings, title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table
