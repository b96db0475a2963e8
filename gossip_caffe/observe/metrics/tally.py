"""Counts of a peer's events for its metrics: an event log that counts, and passes each event on to the real one."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Any

from gossip_caffe.clock import Clock
from gossip_caffe.observe.log.events import Event, EventLog
from gossip_caffe.observe.metrics.table import (
    CHECKPOINT_BUCKETS_S,
    CODECS,
    ITERATION_BUCKETS,
    RATIO_BUCKETS,
    ROUND_OUTCOMES,
    SIDES,
)


class Distribution:
    """Counted values. ``bounds``: the upper bounds of the buckets, ascending."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self.counts = [0] * (len(self._bounds) + 1)
        self.sum = 0.0

    def add(self, value: object) -> None:
        """Count a value. A value that is no finite number is left out."""
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            self.counts[bisect_left(self._bounds, value)] += 1
            self.sum += value


class Tally:
    """The counts since this process began.

    * ``exchanges``: (side, outcome) → the number of exchanges; ``half_ratios``, ``staleness``: see the table.
    * ``rounds``: outcome → the number of synchronous rounds.
    * ``exchanged_at``: monotonic seconds when this peer last applied a half or a mean; None: it has applied none.
    * ``bytes``: (direction, codec) → the bytes of weights that were carried.
    """

    def __init__(self) -> None:
        self.exchanges: Counter[tuple[str, str]] = Counter()
        self.rounds: Counter[str] = Counter()
        self.half_ratios = Distribution(RATIO_BUCKETS)
        self.staleness = Distribution(ITERATION_BUCKETS)
        self.exchanged_at: float | None = None
        self.bytes: Counter[tuple[str, str]] = Counter()
        self.peers_lost = self.leases_lost = self.loader_deaths = 0
        self.checkpoint_durations = Distribution(CHECKPOINT_BUCKETS_S)

    def carried(self, direction: str, codec: str, size_bytes: int) -> None:
        """Count the bytes of weights that were carried. A stranger's codec, which can be any text, is left out."""
        if codec in CODECS and size_bytes:
            self.bytes[direction, codec] += size_bytes

    def note(self, event: Event, fields: dict[str, Any], own: str, now: float) -> None:
        """Take in one event of the peer ``own`` at ``now`` (monotonic s)."""
        match event:
            case Event.EXCHANGED:
                self._exchanged(fields, now)
            case Event.ROUND:
                self._round(fields, now)
            case Event.MEMBER:
                self.peers_lost += fields.get("lost") is True and fields.get("member") != own
            case Event.LEASE_LOST:
                self.leases_lost += 1
            case Event.LOADER_DIED:
                self.loader_deaths += 1
            case Event.CHECKPOINTED:
                self.checkpoint_durations.add(fields.get("seconds"))
            case _:
                pass

    def _round(self, fields: dict[str, Any], now: float) -> None:
        outcome = str(fields.get("outcome"))
        if outcome in ROUND_OUTCOMES:
            self.rounds[outcome] += 1
        if outcome == "applied":
            self.exchanged_at = now
            self.half_ratios.add(fields.get("ratio"))

    def _exchanged(self, fields: dict[str, Any], now: float) -> None:
        side, outcome = str(fields.get("side")), str(fields.get("outcome"))
        if outcome not in SIDES.get(side, ()):
            return
        self.exchanges[side, outcome] += 1
        if outcome == "applied":
            self.exchanged_at = now
            self.half_ratios.add(fields.get("ratio"))
            self.staleness.add(fields.get("steps"))


class TallyingLog:
    """An event log that counts each event in ``tally``, and passes it on to ``log``."""

    def __init__(self, log: EventLog, tally: Tally, peer: str, clock: Clock) -> None:
        self._log = log
        self._tally = tally
        self._peer = peer
        self._clock = clock

    def emit(self, event: Event, **fields: object) -> None:
        """Count one event, and log it."""
        self._tally.note(event, fields, self._peer, self._clock.monotonic())
        self._log.emit(event, **fields)
