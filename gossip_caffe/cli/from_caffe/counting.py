"""The progress of a command that counts records: a bar on a terminal, a line now and then elsewhere, all on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gossip_caffe.cli.terminal.output import terminal
from gossip_caffe.cli.terminal.streams import say

EVERY_S = 5.0


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function to be called with (done, in all; 0: unknown)."""
    if sys.stderr.isatty():
        from rich.progress import Progress  # noqa: PLC0415 - --help must not wait for it

        with Progress(transient=True, console=terminal(sys.stderr)) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total or None)
        return
    told_at = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= EVERY_S:
            told_at = time.monotonic()
            say(f"{done:,} of {total:,} {what}" if total else f"{done:,} {what}", err=True)

    yield tell
