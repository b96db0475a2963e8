"""The speed of this peer, and the number of chunks that it claims ahead of its solver at that speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gossip_caffe.clock import Clock

AHEAD_S = 1.0
"""Seconds of work that a peer claims ahead: enough to bridge a slow store, little enough for others to take over."""


@dataclass(frozen=True, slots=True)
class Window:
    """A window of the past over which a rate is averaged: at least ``least_s`` seconds and ``gains`` iterations."""

    least_s: float
    gains: int


PRESENT = Window(10.0, 5)
"""The window of the rate that is shown."""
STEADY = Window(120.0, 10)
"""The window of the rate by which the time that is left is told: a busy minute must not double that time."""


@dataclass(frozen=True, slots=True)
class Gain:
    """All samples that were trained at a time of the training clock (s), when they had just grown."""

    at_s: float
    samples: int


def rate_of(gains: Sequence[Gain], now_s: float, window: Window) -> float:
    """Return the samples a second of the last part of ``gains`` (oldest first); 0.0 for fewer than two gains.

    The window fits the length of an iteration: a rate is measured from one gain to a later one, and never ends within
    an iteration. Only a pause of more than two iterations counts as well: then the rate falls.
    """
    if len(gains) < 2:
        return 0.0
    last = gains[-1]
    gap_s = (last.at_s - gains[0].at_s) / (len(gains) - 1)
    since_s = now_s - max(window.least_s, window.gains * gap_s)
    first = next((gain for gain in gains[:-2] if gain.at_s >= since_s), gains[-2])
    end_s = now_s if now_s - last.at_s > 2 * gap_s else last.at_s
    return (last.samples - first.samples) / (end_s - first.at_s)


class Throughput:
    """Samples a second that this peer trains, its waits for batches included.

    ``samples_per_s`` is the present rate, ``steady_samples_per_s`` that of a longer time; both are 0.0 while no
    iteration is finished. ``begun_samples``: the part of the iteration under way, by the time that it has taken.
    ``stalled_share``: the share of the time since the report before the last one in which the
    solver waited for a batch, from 0 to 1.

    The training clock stands still while the solver holds for a test or a snapshot: such a time says nothing about
    the speed.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._gains = [Gain(clock.monotonic(), 0)]
        self._began = True
        """Whether the oldest gain is the beginning, which is no end of an iteration."""
        self._stalled_s = 0.0
        self._at = clock.monotonic()
        self.samples_per_s = self.steady_samples_per_s = self.begun_samples = 0.0
        self.stalled_share = 0.0

    def note(self, samples: int, stalled_s: float, held_s: float = 0.0) -> None:
        """Take in a report: all ``samples`` trained so far.

        ``stalled_s``: the seconds that the solver has waited for batches; ``held_s``: those that it has held for tests
        and snapshots.
        """
        now = self._clock.monotonic()
        passed = now - self._at
        if passed <= 0:
            return
        at_s = now - held_s
        if samples < self._gains[-1].samples:  # a solver that was restarted goes on from an older snapshot
            self._gains, self._began = [Gain(at_s, samples)], True
        elif samples > self._gains[-1].samples and at_s > self._gains[-1].at_s:
            self._gains.append(Gain(at_s, samples))
        self._forget_old(at_s)
        self.samples_per_s = rate_of(self._gains, at_s, PRESENT)
        self.steady_samples_per_s = rate_of(self._gains, at_s, STEADY)
        if len(self._gains) > 1:
            before, last = self._gains[-2:]
            in_time = (at_s - last.at_s) * self.steady_samples_per_s
            self.begun_samples = min(in_time, float(last.samples - before.samples))
        self.stalled_share = min(1.0, max(0.0, stalled_s - self._stalled_s) / passed)
        self._stalled_s, self._at = stalled_s, now

    def _forget_old(self, now_s: float) -> None:
        if (
            self._began and len(self._gains) > 2
        ):  # two ends of iterations tell more than the time since the beginning
            del self._gains[0]
            self._began = False
        while len(self._gains) > STEADY.gains + 1 and self._gains[1].at_s < now_s - STEADY.least_s:
            del self._gains[0]


def claims_wanted(
    *,
    queued_records: int,
    batch_records: int,
    chunk_records: int,
    prefetch_batches: int,
    records_per_s: float,
) -> int:
    """The number of chunks to claim now.

    The target is a full prefetch queue or AHEAD_S of work, the larger of both. Nothing is claimed while more than half
    of the target is queued; below that, enough chunks to reach it. Chunks are claimed in lots because that needs few
    transactions.
    """
    ahead = max(prefetch_batches * batch_records, round(records_per_s * AHEAD_S))
    if 2 * queued_records > ahead:
        return 0
    return max(1, (ahead - queued_records) // chunk_records)
