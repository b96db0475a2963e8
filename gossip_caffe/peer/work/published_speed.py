"""The published speed of a peer: samples a second while it has records to train, as the others plan with it.

The plan gives each peer a shard in proportion to its speed, which is the plan's weight. Every published speed makes all
peers plan again, so only a change that is large and lasts is published. A smaller difference is balanced by the peers
that run out of chunks first: they claim chunks of other shards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from gossip_caffe.errors import StoreError
from gossip_caffe.membership.members import Registration
from gossip_caffe.observe.log.events import Event
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.shards.plan import quantised
from gossip_caffe.solver.board import WeightBoard

MEMORY_S = 5.0
"""Time constant of the running mean, in seconds of work …"""
MEMORY_INTERVALS = 4
"""… and at least so many intervals: where an iteration takes longer than MEMORY_S, a single one says little."""
FIRST_AFTER_S = 3.0
"""Seconds of work before the first speed is published …"""
FIRST_AFTER_INTERVALS = 3
"""… and looks that each found more samples trained."""
CHANGE = 1.2
"""A published speed stays until the measured one is this many times as large, or as small …"""
LASTS_S = 10.0
"""… for so many seconds of work on end …"""
LASTS_INTERVALS = 8
"""… and so many intervals."""

LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class NewSpeed:
    """A speed to publish as the plan's ``weight``, in samples a second, and the reason."""

    weight: float
    reason: str


class SpeedMeter:
    """Measures the speed of one peer. An interval counts only if the peer had records to train all the time.

    ``samples_per_s``: the running mean, 0.0 before the first interval.
    """

    def __init__(self) -> None:
        self.samples_per_s = 0.0
        self._worked_s = 0.0
        self._off_s = 0.0
        self._intervals = 0
        self._before: tuple[float, int] | None = None

    def note(self, now_s: float, samples: int, had_work: bool, published: float) -> NewSpeed | None:
        """Take in the count of trained samples; returns the speed to publish now, or None to keep ``published``.

        ``published``: samples a second, 0.0 before the first. ``had_work``: since the last call there were always
        records to train. After a count that falls, because the solver went back to its last snapshot, a new interval
        begins.
        """
        before = self._before
        if before is not None and had_work and samples == before[1]:
            return None  # in the middle of a long iteration, which counts as a whole
        self._before = (now_s, samples)
        if before is None or not had_work or samples < before[1] or now_s <= before[0]:
            return None
        passed_s = now_s - before[0]
        rate = (samples - before[1]) / passed_s
        self._intervals += 1
        # The plain mean at first, so that the first interval does not count for all.
        self._worked_s += passed_s
        memory_s = max(MEMORY_S, MEMORY_INTERVALS * self._worked_s / self._intervals)
        share = max(1.0 - math.exp(-passed_s / memory_s), passed_s / self._worked_s)
        self.samples_per_s += share * (rate - self.samples_per_s)
        return self._news(passed_s, published)

    def _news(self, passed_s: float, published: float) -> NewSpeed | None:
        if self._worked_s < FIRST_AFTER_S or self._intervals < FIRST_AFTER_INTERVALS:
            return None
        weight = quantised(self.samples_per_s)
        if published <= 0:
            return NewSpeed(weight, f"first measured over {self._worked_s:.0f} s of work")
        if 1 / CHANGE < self.samples_per_s / published < CHANGE:
            self._off_s = 0.0
            return None
        self._off_s += passed_s
        if self._off_s < max(LASTS_S, LASTS_INTERVALS * self._worked_s / self._intervals):
            return None
        lasted_s, self._off_s = self._off_s, 0.0
        return NewSpeed(
            weight, f"{self.samples_per_s / published:.2f} times what it was, for {lasted_s:.0f} s"
        )


async def publish_speed(
    registration: Callable[[], Registration],
    board: WeightBoard,
    had_work: Callable[[], bool],
    world: PeerDependencies,
) -> None:
    """Measure this peer's speed, and publish it in the peer's record when it has changed for long; for ever.

    ``registration`` returns the newest registration. ``had_work`` returns whether there were always records to train
    since its last call.
    """
    meter = SpeedMeter()
    while True:
        own = registration()
        news = meter.note(world.clock.monotonic(), board.samples, had_work(), own.record.weight)
        if news is not None:
            try:
                await own.publish(weight=news.weight)
                world.log.emit(Event.WEIGHED, weight=news.weight, reason=news.reason)
            except StoreError:
                pass  # the next write of the peer's record carries the speed
        await world.clock.sleep(LOOK_EVERY_S)
