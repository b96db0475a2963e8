"""``gossip-caffe demo``: peers that train, join and die on this machine, in two minutes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gossip_caffe.cli.terminal.output import above, print_json, rich_table, terminal
from gossip_caffe.cli.terminal.streams import never_wait_for_readers, say
from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.view import HEADINGS
from gossip_caffe.demo.model import EPOCHS
from gossip_caffe.demo.script_run import progress_line
from gossip_caffe.errors import ExitCode

if TYPE_CHECKING:
    from rich.live import Live

    from gossip_caffe.demo.script_run import DemoDisplay, View


class TableDisplay:
    """On a terminal: a live table of the peers, with events as lines above it."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, view: View) -> None:
        """Draw the table again, with the new view."""
        self._live.update(rich_table(HEADINGS, view.rows, progress_line(view)))

    def say(self, line: str) -> None:
        """Print a line above the table."""
        above(self._live.console, line)


@click.command()
@click.option(
    "--peers",
    default=4,
    show_default=True,
    type=click.IntRange(2, 64),
    help="The number of peers at the start.",
)
@click.option(
    "--epochs", default=0, type=click.IntRange(0), help=f"The number of epochs. [default: {EPOCHS}]"
)
@click.option(
    "--out",
    default="",
    metavar="DIR",
    help="An empty or new folder for the results. [default: gossip-caffe-demo/TIME]",
)
@click.option(
    "--seed",
    default=1,
    show_default=True,
    type=click.IntRange(0, 2**31 - 1),
    help="For the data's split and the weights.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the figures as JSON; all other output goes to stderr."
)
@click.option("--keep", is_flag=True, help="Keep the data, the weights and etcd's files, too.")
def demo(peers: int, epochs: int, out: str, seed: int, as_json: bool, keep: bool) -> None:
    """Train a net on digits with four peers, add one, kill one, and compare with a single Caffe solver.

    It writes a picture, and ends with a line 'RESULT {json}'. Exit code 0: the job finished, no record was lost, and
    the accuracy of the consensus is at most one point below the single solver's.

    \b
    gossip-caffe demo
    gossip-caffe demo --peers 3 --out /tmp/demo --keep
    """
    from gossip_caffe.demo.run import DemoOptions, run_demo  # noqa: PLC0415 - heavy

    clock = SystemClock()
    started = datetime.fromtimestamp(clock.wall()).strftime("%Y%m%d-%H%M%S")
    folder = Path(out) if out else Path("gossip-caffe-demo") / started
    options = DemoOptions(folder, peers, epochs or EPOCHS, seed, keep)
    never_wait_for_readers()
    result = run_demo(
        options, partial(say, err=as_json), clock, None if as_json or not sys.stdout.isatty() else _live_table
    )
    for reason in result.failures():
        say(f"gossip-caffe: {reason}", err=True)
    if as_json:
        print_json({**result.figures(), "picture": str(options.picture)})
    else:
        for line in result.last_lines(options.picture):
            say(line)
    sys.exit(ExitCode.FAILED if result.failures() else ExitCode.OK)


@contextmanager
def _live_table() -> Iterator[DemoDisplay]:
    from rich.live import Live  # noqa: PLC0415 - only where there is a terminal

    with Live(refresh_per_second=4, console=terminal()) as live:
        yield TableDisplay(live)
