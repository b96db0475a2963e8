"""Runs: consecutive trained batches share one line of the event log, and yet none of them can be lost.

A line for each batch would be most of a log. So the batches that follow each other are collected into a *run*, with one
line ``trained`` for all of them. The history checker must decide from the log which records were trained, in which
batch, when, and in which order with other events. It still can:

- *Which records, in which batch.* A run holds batches of one size with consecutive numbers, so that the ranges of its
  records, cut at that size, give back each batch (``batches_of``). A shorter batch, or one that is trained again,
  begins another run.
- *As few bytes as that takes.* ``ranges`` holds for each epoch its number and then (start, count) pairs, because counts
  repeat, and a compressed part holds what repeats only once. A line of one batch has ``parts``, as in older logs.
- *When.* The line states how long before it the first batch was noted (``since_s``), and the time from each batch to
  the next (``gaps_ms``).
- *In which order.* Every event ends the run before it, except those in ``BESIDE``. So a claim, a settlement, a
  rollback, a checkpoint or the death of a solver stands after all batches that were trained before it, and before all
  that came later, as if each batch had its line. The checks compare the events in ``BESIDE`` with batches by number
  alone: an exchange states how many batches it held, whether or not their line is written yet.

*A killed writer.* The log takes each batch of the growing run at once (``hold``): ``JsonLinesLog`` keeps them as lines
of a second file, the tail, until the line of the run is written. A reader adds the lines of the tail to the end of the
history. Without the tail a kill would cost the account up to RUN_S of training. No record would be called lost by that:
a chunk is settled only after its last batch is noted, and a chunk that was not settled is trained again. But the
training that the other peers repeat would count once, and ``records_twice`` would be too small. With the tail a kill
costs no more than when each batch had its line: the line that is being written. A torn line of the tail is skipped. Its
batch was not settled, because the peer was killed in the call that noted it. A kill between the line of the run and the
removal of the tail leaves both; ``has_line`` says which batches are then there twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any, Protocol

from gossip_caffe.clock import Clock
from gossip_caffe.observe.log.events import Event, EventLog

RUN_S = 1.0
MOST_BATCHES = 128
AT_ONCE_S = 0.001
"""A line that is written later than this after its only batch states since when that batch was noted."""
BESIDE = frozenset(
    {Event.OFFERED, Event.EXCHANGED, Event.HALF_APPLIED, Event.CORRECTED, Event.DISPLAYED, Event.PROGRESS}
)
"""Events whose order with trained batches has no meaning. Every other event ends the run before it."""
_OF_A_RUN = frozenset({"batches", "since_s", "gaps_ms", "ranges"})


class HoldingLog(EventLog, Protocol):
    """An event log that can hold events back which may still become one line."""

    def hold(self, event: Event, **fields: object) -> bool:
        """Keep an event safe from a kill until ``emit`` writes an event of its kind, which stands for all held ones.

        Returns False if it cannot be kept.
        """
        ...


@dataclass(slots=True)
class _Run:
    """``records``: the number of records of each batch. ``at``: when each batch was noted (monotonic s).

    ``parts``: the ranges [epoch, start, stop) of all batches. Ranges that continue each other are one.
    """

    sequence: int
    records: int
    at: list[float] = field(default_factory=list)
    parts: list[list[int]] = field(default_factory=list)

    def takes(self, sequence: int, records: int, now: float) -> bool:
        """True if this batch can follow in the same run."""
        follows = sequence == self.sequence + len(self.at) and records == self.records
        return follows and len(self.at) < MOST_BATCHES and not self.is_over(now)

    def is_over(self, now: float) -> bool:
        """True if the run has its greatest length."""
        return now - self.at[0] >= RUN_S

    def add(self, parts: Sequence[Sequence[int]], now: float) -> None:
        """Add a batch."""
        for epoch, start, stop in parts:
            if self.parts and self.parts[-1][0] == epoch and self.parts[-1][2] == start:
                self.parts[-1][2] = stop
            else:
                self.parts.append([epoch, start, stop])
        self.at.append(now)

    def fields(self, now: float) -> dict[str, object]:
        """The fields of its line. A batch whose line is written at once has the fields of a batch alone."""
        if len(self.at) == 1 and now - self.at[0] < AT_ONCE_S:
            return {"sequence": self.sequence, "parts": self.parts}
        after_ms = [round(1000 * (at - self.at[0])) for at in self.at]
        return {
            "sequence": self.sequence,
            "batches": len(self.at),
            "since_s": round(now - self.at[0], 6),
            "gaps_ms": [later - earlier for earlier, later in pairwise(after_ms)],
            "ranges": list(self._ranges()),
        }

    def _ranges(self) -> Iterator[list[int]]:
        for epoch, parts in groupby(self.parts, key=itemgetter(0)):
            yield [epoch, *(figure for _, start, stop in parts for figure in (start, stop - start))]


class LogInRuns:
    """An event log that writes trained batches in runs. It is for one thread."""

    def __init__(self, log: HoldingLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._run: _Run | None = None

    def emit(self, event: Event, **fields: Any) -> None:
        """Log an event, or take a trained batch into a run."""
        if event is Event.TRAINED:
            self._take(fields["sequence"], fields["parts"])
            return
        run = self._run
        if run is not None and (event not in BESIDE or run.is_over(self._clock.monotonic())):
            self.end_run()
        self._log.emit(event, **fields)

    def _take(self, sequence: int, parts: Sequence[Sequence[int]]) -> None:
        now, records = self._clock.monotonic(), _records(parts)
        if self._run is not None and not self._run.takes(sequence, records, now):
            self.end_run()
        if self._run is None:
            self._run = _Run(sequence, records)
        self._run.add(parts, now)
        if not self._log.hold(Event.TRAINED, sequence=sequence, parts=parts):
            self.end_run()

    def end_run(self) -> None:
        """Write the line of the present run, if there is one."""
        run, self._run = self._run, None
        if run is not None:
            self._log.emit(Event.TRAINED, **run.fields(self._clock.monotonic()))


def _records(parts: Sequence[Sequence[int]]) -> int:
    return sum(stop - start for _, start, stop in parts)


def batches_of(event: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The batches of a ``trained`` event as events with one batch each, in order. Older logs have no others."""
    if "ranges" not in event:
        yield dict(event)
        return
    head = {name: value for name, value in event.items() if name not in _OF_A_RUN}
    parts = records_in(event)
    records = _records(parts) // event["batches"]
    rest = parts[::-1]
    after_s = -event["since_s"]
    for number, gap_ms in enumerate([0, *event["gaps_ms"]]):
        after_s += gap_ms / 1000
        times = {name: round(event[name] + after_s, 6) for name in ("t", "m") if name in event}
        yield {**head, **times, "sequence": event["sequence"] + number, "parts": _cut(rest, records)}


def records_in(event: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """The record ranges (epoch, start, stop) of a ``trained`` event, of all its batches."""
    if "ranges" not in event:
        return [(epoch, start, stop) for epoch, start, stop in event["parts"]]
    return [
        (epoch, start, start + count)
        for epoch, *pairs in event["ranges"]
        for start, count in zip(pairs[::2], pairs[1::2], strict=True)
    ]


def _cut(rest: list[tuple[int, int, int]], records: int) -> list[list[int]]:
    """Take the first ``records`` records off the ranges in ``rest``, whose last one comes first."""
    taken: list[list[int]] = []
    while records and rest:
        epoch, start, stop = rest.pop()
        cut = min(stop, start + records)
        taken.append([epoch, start, cut])
        records -= cut - start
        if cut < stop:
            rest.append((epoch, cut, stop))
    return taken


def has_line(held: Mapping[str, Any], last: Mapping[str, Any] | None) -> bool:
    """True if a batch of the tail is in the ``trained`` event that its process wrote last; None: it wrote none.

    A batch of that number that is newer than the event was trained again.
    """
    if last is None or held["m"] > last["m"]:
        return False
    return bool(last["sequence"] <= held["sequence"] < last["sequence"] + last.get("batches", 1))


def one_by_one(events: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The events, with an event for each trained batch."""
    for event in events:
        if event["event"] == Event.TRAINED:
            yield from batches_of(event)
        else:
            yield event
