"""How fast this peer trains while it has something to train, and when the others should know.

Shares of an epoch are planned by these weights. Every published one makes everybody plan again, so only a change that
is large and lasts is published; what is smaller is balanced by whoever runs out of chunks first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from gossip_caffe.errors import StoreError
from gossip_caffe.membership.members import Registration
from gossip_caffe.observe.events import Event
from gossip_caffe.peer.world import World
from gossip_caffe.shards.plan import quantised
from gossip_caffe.solver.board import WeightBoard

MEMORY_S = 5.0
"""Time constant of the running mean, in seconds of work …"""
MEMORY_INTERVALS = 4
"""… and at least so many intervals: where an iteration takes longer than all that, one alone says little."""
FIRST_AFTER_S = 3.0
"""Seconds of work before a weight is known at all …"""
FIRST_AFTER_INTERVALS = 3
"""… and looks that each found more samples trained."""
CHANGE = 1.2
"""A published weight stands until the measured one is this many times as large, or as small …"""
LASTS_S = 10.0
"""… for so many seconds of work on end …"""
LASTS_INTERVALS = 8
"""… and so many intervals."""

LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Weighed:
    """A weight to publish, in samples a second, and why."""

    weight: float
    reason: str


class Weighing:
    """One peer's own weight. Only intervals in which it always had records to train count."""

    def __init__(self) -> None:
        self.samples_per_s = 0.0
        self._worked_s = 0.0
        self._off_s = 0.0
        self._intervals = 0
        self._before: tuple[float, int] | None = None

    def note(self, now_s: float, samples: int, had_work: bool, published: float) -> Weighed | None:
        """Take in the count of trained samples; what to publish instead of ``published`` (0.0: nothing yet), if so.

        ``had_work``: since the last call there was always something to train. A count that falls (the solver went back
        to its last snapshot) begins anew.
        """
        before = self._before
        if before is not None and had_work and samples == before[1]:
            return None  # in the middle of a long iteration: it counts as a whole
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

    def _news(self, passed_s: float, published: float) -> Weighed | None:
        if self._worked_s < FIRST_AFTER_S or self._intervals < FIRST_AFTER_INTERVALS:
            return None
        weight = quantised(self.samples_per_s)
        if published <= 0:
            return Weighed(weight, f"first measured over {self._worked_s:.0f} s of work")
        if 1 / CHANGE < self.samples_per_s / published < CHANGE:
            self._off_s = 0.0
            return None
        self._off_s += passed_s
        if self._off_s < max(LASTS_S, LASTS_INTERVALS * self._worked_s / self._intervals):
            return None
        lasted_s, self._off_s = self._off_s, 0.0
        return Weighed(
            weight, f"{self.samples_per_s / published:.2f} times what it was, for {lasted_s:.0f} s"
        )


async def tell_weight(
    registration: Callable[[], Registration], board: WeightBoard, had_work: Callable[[], bool], world: World
) -> None:
    """Measure how fast this peer trains, and tell the others when that has changed for long; for ever.

    ``registration`` gives the newest one; ``had_work`` whether there was something to train since it was last asked.
    """
    weighing = Weighing()
    while True:
        own = registration()
        weighed = weighing.note(world.clock.monotonic(), board.samples, had_work(), own.record.weight)
        if weighed is not None:
            try:
                await own.publish(weight=weighed.weight)
                world.log.emit(Event.WEIGHED, weight=weighed.weight, reason=weighed.reason)
            except StoreError:
                pass  # it goes out with whatever this peer writes of itself next
        await world.clock.sleep(LOOK_EVERY_S)
