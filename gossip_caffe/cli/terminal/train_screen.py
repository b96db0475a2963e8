"""The display of ``train``: a progress bar on a terminal, lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from gossip_caffe.cli.terminal.output import above, terminal
from gossip_caffe.cli.terminal.streams import say
from gossip_caffe.cluster.figures import Figures, figures_of
from gossip_caffe.cluster.view import duration
from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.tested import ConsensusTest
from gossip_caffe.printable import printable_line

if TYPE_CHECKING:
    from rich.live import Live
    from rich.progress import Progress

PLAIN_EVERY_S = 5.0
FINISHING = "the settlement of the last chunks"
"""The thing that a trained job waits for while its peers name none."""
SHOWN = frozenset({Event.TESTED, Event.DISPLAYED})
"""Events of this machine's peers that are shown one by one: etcd keeps only the newest test."""
_OF_A_TEST = tuple(field.name for field in fields(ConsensusTest))


class TrainScreen:
    """Lines: the progress every PLAIN_EVERY_S, and each test. ``figures``: the newest figures of the cluster."""

    def __init__(self, budget_samples: int, say: Callable[[str], None]) -> None:
        self.figures = Figures()
        self.say = say
        self._budget = budget_samples
        self._said_at = float("-inf")
        self._tests_said: set[tuple[int, int]] = set()
        self._displayed = -1

    def look(self, status: dict[str, Any]) -> None:
        """Show the cluster's newest status, as ``cluster status --json`` gives it."""
        self.figures = figures_of(status, self._budget)
        if self.figures.tested is not None:
            self._say_tested(self.figures.tested)
        self.show()

    def happened(self, event: Mapping[str, Any]) -> None:
        """Show an event from the log of a peer on this machine; its kind is one of SHOWN."""
        if event["event"] == Event.DISPLAYED:
            self._display(event)
            return
        try:
            test = ConsensusTest.from_record({name: event[name] for name in _OF_A_TEST if name in event})
        except ValueError:
            return  # an event of another version
        self._say_tested(test)

    def _display(self, event: Mapping[str, Any]) -> None:
        """Print Caffe's display lines of an iteration, from the first peer that reaches it."""
        lines, number = event.get("lines"), event.get("number")
        if not isinstance(lines, list) or (isinstance(number, int) and number <= self._displayed):
            return
        if isinstance(number, int):
            self._displayed = number
        for line in lines:
            self.say(str(line))

    def _say_tested(self, test: ConsensusTest) -> None:
        """Print a test's result once, from the peer's log or from etcd, the first that has it."""
        which = test.mark, test.progress_samples
        if which not in self._tests_said:
            self._tests_said.add(which)
            self.say(f"iteration {test.iteration:,}: {test.words()}")

    def show(self) -> None:
        """Print the newest figures if the last ones were printed at least PLAIN_EVERY_S ago."""
        if self.figures.peers and time.monotonic() - self._said_at >= PLAIN_EVERY_S:
            self._said_at = time.monotonic()
            self.say(line_of(self.figures, self._budget))


class BarScreen(TrainScreen):
    """On a terminal: a progress bar, with events as lines above it."""

    def __init__(self, budget_samples: int, live: Live, bar: Progress) -> None:
        super().__init__(budget_samples, self._above)
        self._live = live
        self._bar = bar
        self._words = "the peers start"
        self._task = bar.add_task("", total=budget_samples, left="")

    def _above(self, line: str) -> None:
        above(self._live.console, line)

    def show(self) -> None:
        """Draw the bar and the newest figures."""
        from rich.console import Group  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        done, left = self.figures.done_samples, time_left(self.figures, self._budget)
        self._bar.update(self._task, completed=done, left="" if done >= self._budget else left)
        if done >= self._budget:
            self._words = finishing(self.figures)
        elif self.figures.peers:
            self._words = self.figures.words()
        self._live.update(Group(self._bar.get_renderable(), Text(printable_line(self._words))))


def line_of(figures: Figures, budget_samples: int) -> str:
    """Return the progress as one line."""
    share = f"{figures.done_samples / budget_samples:4.0%} of {budget_samples:,} samples"
    if figures.done_samples >= budget_samples:
        return f"{share}; {finishing(figures)}"
    return f"{share}, {figures.words()}, {time_left(figures, budget_samples)}"


def finishing(figures: Figures) -> str:
    """Describe the thing that a job waits for whose budget is trained."""
    return f"waits for {figures.waits_for or FINISHING}"


def time_left(figures: Figures, budget_samples: int) -> str:
    """Return the time left as text: "0:12:30 left"; unknown before the first iteration is finished."""
    left_s = figures.seconds_left(budget_samples)
    return "time left unknown yet" if math.isinf(left_s) else f"{duration(left_s)} left"


@contextmanager
def train_screen(budget_samples: int, *, on_terminal: bool, to_stderr: bool) -> Iterator[TrainScreen]:
    """Yield the progress bar if ``on_terminal``, else lines, on stderr if ``to_stderr``."""
    if not on_terminal:
        yield TrainScreen(budget_samples, lambda line: say(line, err=to_stderr))
        return
    from rich.live import Live  # noqa: PLC0415 - only where there is a terminal
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    console = terminal()
    bar = Progress(
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("samples"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
    )
    with Live(refresh_per_second=4, console=console) as live:
        yield BarScreen(budget_samples, live, bar)
