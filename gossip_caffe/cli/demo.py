"""``gossip-caffe demo``: the whole thing at work, on this machine, in two minutes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gossip_caffe.cli.output import print_json, rich_table
from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.view import HEADINGS
from gossip_caffe.demo.model import EPOCHS
from gossip_caffe.demo.play import progress_line
from gossip_caffe.errors import ExitCode

if TYPE_CHECKING:
    from rich.live import Live

    from gossip_caffe.demo.play import Audience, View


class TableAudience:
    """On a terminal: a live table of the peers, with what happens above it."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def see(self, view: View) -> None:
        """Draw the table anew."""
        self._live.update(rich_table(HEADINGS, view.rows, progress_line(view)))

    def hear(self, line: str) -> None:
        """Print a line above the table."""
        self._live.console.print(line, highlight=False, markup=False)


@click.command()
@click.option("--peers", default=4, show_default=True, type=click.IntRange(2, 64), help="Peers at the start.")
@click.option("--epochs", default=0, type=click.IntRange(0), help=f"Epochs to train. [default: {EPOCHS}]")
@click.option(
    "--out", default="", metavar="DIR", help="An empty or new folder. [default: gossip-caffe-demo/TIME]"
)
@click.option(
    "--seed", default=1, show_default=True, type=click.IntRange(0, 2**31 - 1), help="Split and weights."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the figures as JSON; everything else goes to stderr."
)
@click.option("--keep", is_flag=True, help="Keep data, weights and etcd's files too.")
def demo(peers: int, epochs: int, out: str, seed: int, as_json: bool, keep: bool) -> None:
    """Train digits with four peers, let one join, kill one, and compare with a single Caffe solver.

    Writes a picture, and ends with a line 'RESULT {json}'. Exit code 0: the job finished, no record was lost, and
    the consensus is at most one point below the single solver.

    \b
    gossip-caffe demo
    gossip-caffe demo --peers 3 --out /tmp/demo --keep
    """
    from gossip_caffe.demo.run import DemoOptions, run_demo  # noqa: PLC0415 - heavy

    clock = SystemClock()
    started = datetime.fromtimestamp(clock.wall()).strftime("%Y%m%d-%H%M%S")
    folder = Path(out) if out else Path("gossip-caffe-demo") / started
    options = DemoOptions(folder, peers, epochs or EPOCHS, seed, keep)
    say: Callable[[str], None] = _say_on_stderr if as_json else click.echo
    result = run_demo(options, say, clock, None if as_json or not sys.stdout.isatty() else _live_table)
    for reason in result.failures():
        click.echo(f"gossip-caffe: {reason}", err=True)
    if as_json:
        print_json({**result.figures(), "picture": str(options.picture)})
    else:
        for line in result.last_lines(options.picture):
            click.echo(line)
    sys.exit(ExitCode.FAILED if result.failures() else ExitCode.OK)


@contextmanager
def _live_table() -> Iterator[Audience]:
    from rich.live import Live  # noqa: PLC0415 - only where there is a terminal

    with Live(refresh_per_second=4) as live:
        yield TableAudience(live)


def _say_on_stderr(line: str) -> None:
    click.echo(line, err=True)
