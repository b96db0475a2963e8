"""A run as the log that ``caffe train`` writes, from the event logs of its peers.

The tools that come with Caffe (tools/extra/parse_log.py and others) find in it one row for each ``display`` and one for
each test. A line has the head that glog gives it: severity with month and day, time, process id, and the place in
Caffe's source. The text is that of Caffe's Solver, with the iterations a second that newer versions of Caffe print.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.tested import TEST_LOSS, ConsensusTest, Output

KINDS = frozenset({Event.STARTED, Event.DISPLAYED, Event.TESTED, Event.FINISHED})
"""The events from which the lines are made."""
_DISPLAYED = re.compile(r"Iteration (\d+), loss = (.*)")
_OF_A_TEST = ("progress_samples", "iteration", "outputs", "mark")
_SOLVING, _LOSS, _OUTPUT, _DONE, _TESTING, _TEST_LOSS, _TESTED = (
    f"solver.cpp:{line}" for line in (282, 231, 247, 325, 346, 400, 413)
)
_RATE = "sgd_solver.cpp:106"
_DEBUG = "net.cpp:637"


class CaffeLog:
    """The lines of one job. Of several peers that display an iteration the first one counts, as in ``train``."""

    def __init__(self) -> None:
        self._pids: dict[str, int] = {}
        self._begun = self._ended = False
        self._displayed = -1
        self._last: tuple[int, float] | None = None
        self._tests: set[tuple[int, int]] = set()

    def lines(self, event: Mapping[str, Any]) -> list[str]:
        """The lines of the next event, in order of time. Most events have none."""
        peer = str(event.get("peer", ""))
        if event["event"] == Event.STARTED:
            self._pids[peer] = event.get("pid", 0)
        head = glog_head(event["t"], self._pids.get(peer, 0))
        return [f"{head} {place}] {text}" for place, text in self._texts(event)]

    def _texts(self, event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        match event["event"]:
            case Event.STARTED if not self._begun:
                self._begun = True
                yield _SOLVING, f"Solving {event.get('job', '')}"
            case Event.DISPLAYED:
                yield from self._display(event)
            case Event.TESTED:
                yield from self._test(event)
            case Event.FINISHED if not self._ended:
                self._ended = True
                yield _DONE, "Optimization Done."

    def _display(self, event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        number = event["number"]
        if number is None:  # the lines of debug_info
            yield from ((_DEBUG, line) for line in event["lines"])
            return
        if number <= self._displayed:
            return
        self._displayed = number
        for line in event["lines"]:
            if (first := _DISPLAYED.fullmatch(line)) is not None:
                yield _LOSS, self._loss(int(first[1]), first[2], event["t"])
            else:
                yield (_RATE if ", lr = " in line else _OUTPUT), line

    def _loss(self, iteration: int, loss: str, at: float) -> str:
        """The line of the loss; with the rate since the line before it, if there is one."""
        last, self._last = self._last, (iteration, at)
        if last is None or at <= last[1] or iteration <= last[0]:
            return f"Iteration {iteration}, loss = {loss}"
        made, took_s = iteration - last[0], at - last[1]
        return (
            f"Iteration {iteration} ({made / took_s:.6g} iter/s, {took_s:.6g}s/{made} iters), loss = {loss}"
        )

    def _test(self, event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        try:
            test = ConsensusTest.from_record({name: event[name] for name in _OF_A_TEST if name in event})
        except (ValueError, KeyError):
            return  # an event of another version
        which = test.mark, test.progress_samples
        if which in self._tests:
            return
        self._tests.add(which)
        for net, outputs in groupby(test.outputs, key=lambda output: output.net):
            yield _TESTING, f"Iteration {test.iteration}, Testing net (#{net})"
            yield from _outputs(outputs)


def _outputs(outputs: Iterable[Output]) -> Iterator[tuple[str, str]]:
    number = 0
    for output in outputs:
        if output.name == TEST_LOSS:
            yield _TEST_LOSS, output.words()
            continue
        for mean in output.means:
            single = Output(output.name, (mean,), loss_weight=output.loss_weight)
            yield _TESTED, f"    Test net output #{number}: {single.words()}"
            number += 1


def glog_head(at: float, pid: int) -> str:
    """The head of a line of glog: "I1130 12:08:00.123456 25210", in local time."""
    # Rounded once, so that 0.9999999 becomes the next second and not a fraction of seven digits.
    seconds, micros = divmod(round(at * 1e6), 1_000_000)
    local = time.localtime(seconds)
    return f"I{time.strftime('%m%d %H:%M:%S', local)}.{micros:06d} {pid:5d}"
