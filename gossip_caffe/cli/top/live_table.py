"""``status --watch`` on a terminal: a table that is drawn again, with what changes as lines above it."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Group
from rich.live import Live
from rich.text import Text

from gossip_caffe.cli.terminal.output import above, terminal
from gossip_caffe.cli.terminal.streams import reader_is_gone
from gossip_caffe.cli.top.watching import Watching
from gossip_caffe.observe.views.rows import Order, table
from gossip_caffe.observe.views.watched import Watched
from gossip_caffe.observe.views.words import figures, happened, headline
from gossip_caffe.printable import printable_line

PADDING = 1
"""The characters that rich adds to each column."""


async def follow_as_table(watching: Watching) -> None:
    """Draw the table until the job is finished or the terminal has gone."""
    console = terminal()
    with Live(auto_refresh=False, console=console) as live:
        while not reader_is_gone():
            watched = watching.watched
            for entry in watched.happenings:
                above(console, happened(entry))
            live.update(drawn(watched, console.width), refresh=True)
            if watched.snapshot.finished:
                return
            watching.watched = replace(watched, happenings=())  # they are printed, and needed no more
            await watching.clock.sleep(watching.pause_s)
            await watching.look()


def drawn(watched: Watched, width: int) -> Group:
    """Return the headline, the figures and the table, as rich draws them."""
    shown = table(watched, Order(), width - 2 * PADDING)
    lines = [headline(watched.snapshot), figures(watched), shown.line(shown.headings)]
    lines += [shown.line(row) for row in shown.rows]
    return Group(*(Text(printable_line(line), no_wrap=True, overflow="ellipsis") for line in lines))
