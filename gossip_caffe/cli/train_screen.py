"""A job as ``train`` shows it: a progress bar on a terminal, lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from gossip_caffe.cluster.figures import Figures, figures_of

if TYPE_CHECKING:
    from rich.live import Live
    from rich.progress import Progress

PLAIN_EVERY_S = 5.0


class TrainScreen:
    """Lines: the progress every few seconds, and each test. ``figures``: the newest."""

    def __init__(self, budget_samples: int, say: Callable[[str], None]) -> None:
        self.figures = Figures()
        self.say = say
        self._budget = budget_samples
        self._said_at = float("-inf")

    def look(self, status: dict[str, Any]) -> None:
        """The cluster as it is now."""
        before, self.figures = self.figures, figures_of(status, self._budget)
        tested = self.figures.tested
        if tested is not None and tested != before.tested:
            self.say(f"iteration {tested.iteration:,}: {tested.words()}")
        self.show()

    def show(self) -> None:
        """Show the newest figures."""
        if self.figures.peers and time.monotonic() - self._said_at >= PLAIN_EVERY_S:
            self._said_at = time.monotonic()
            self.say(line_of(self.figures, self._budget))


class BarScreen(TrainScreen):
    """On a terminal: a bar, with what happens above it."""

    def __init__(self, budget_samples: int, live: Live, bar: Progress) -> None:
        super().__init__(budget_samples, self._above)
        self._live = live
        self._bar = bar
        self._words = "the peers start"
        self._task = bar.add_task("", total=budget_samples)

    def _above(self, line: str) -> None:
        self._live.console.print(line, highlight=False, markup=False)

    def show(self) -> None:
        """Draw it anew."""
        from rich.console import Group  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        self._bar.update(self._task, completed=self.figures.done_samples)
        if self.figures.peers:
            self._words = self.figures.words()
        self._live.update(Group(self._bar.get_renderable(), Text(self._words)))


def line_of(figures: Figures, budget_samples: int) -> str:
    """The progress in one line."""
    left = figures.seconds_left(budget_samples)
    end = "" if math.isinf(left) else f", {duration(left)} left"
    return (
        f"{figures.done_samples / budget_samples:4.0%} of {budget_samples:,} samples, {figures.words()}{end}"
    )


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


@contextmanager
def train_screen(budget_samples: int, *, on_terminal: bool, to_stderr: bool) -> Iterator[TrainScreen]:
    """The one that fits."""
    if not on_terminal:
        yield TrainScreen(budget_samples, lambda line: click.echo(line, err=to_stderr))
        return
    from rich.live import Live  # noqa: PLC0415 - only where there is a terminal
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("samples"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Live(refresh_per_second=4) as live:
        yield BarScreen(budget_samples, live, bar)
