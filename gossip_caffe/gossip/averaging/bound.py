"""The limit of one exchange's change to a peer (bounded-half): a faulty partner costs an exchange, never a model.

The measure of a half is its length relative to the own exchanged weights, r = ‖δ‖ / ‖xᵢ‖, without the noise of the
codec's rounding, so that one limit serves for every codec. On real clusters the halves
of faultless peers have a median below 0.0075 and a maximum of 0.058. Weights with flipped signs have 1.0, noise 0.7,
zeros 0.5. A side that sees r above the job's ``half_limit`` applies nothing.

While a peer warms up, the halves of faultless peers are longer: up to 0.55 in the first second of a job, and more if a
job begins near zero, because its first steps multiply its weights. A peer warms up until the job has left its warm-up
and the peer has applied WARM_AFTER halves since it got its weights. Meanwhile the limit is WARMING times as wide, and
is relative to the longer of the two sides. The partner's length counts only up to a root mean square of WARMING_RMS, so
that absurd weights are refused from the first exchange on.

A job with rare exchanges and a high learning rate always has longer halves (H = 64 at three times the rate: up to 0.3).
So the limit is at least SPREAD times the median of the last applied halves, but at most WIDEST times ``half_limit``:
0.4 with the default setting, which is below every faulty case above.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from gossip_caffe.gossip.averaging.average import HalfStats

WARM_AFTER = 16
"""The number of halves that a peer applies, in exchanges that either side offered, before it is warm."""
WARMING = 3.0
SPREAD = 2.5
WIDEST = 1.6
WARMING_RMS = 1.0
FARTHEST = 1e300
"""The ratio of a half to own weights that are all zero. It stands for infinity, which JSON does not have."""


@dataclass(frozen=True, slots=True)
class Reach:
    """The relative length of a half: ``ratio`` is r, ``limit`` the largest r allowed now (0: no limit).

    ``too_far``: the half must not be applied.
    """

    ratio: float = 0.0
    limit: float = 0.0
    too_far: bool = False

    @property
    def words(self) -> str:
        """The end of a message."""
        return f"{self.ratio:.3g} of its weights' length, and the limit is {self.limit:.3g}"


UNMEASURED = Reach()
"""The reach of a half that was not computed, or not applied for another reason."""


def limit_of(half_limit: float, *, warm: bool, usual: float = 0.0) -> float:
    """The largest allowed ratio. ``warm``: the peer is not warming up; ``usual``: the median of its last ratios."""
    if not warm:
        return WARMING * half_limit
    return min(max(half_limit, SPREAD * usual), WIDEST * half_limit)


def reach(half: HalfStats, half_limit: float, *, warming: bool, values: int, usual: float = 0.0) -> Reach:
    """The reach of a half of ``values`` values. ``usual``: the median of the last ratios. Pure."""
    own, norm = half.own_norm, half.signal_norm
    ratio = _over(norm, own)
    if not half_limit:
        return Reach(ratio)
    limit = limit_of(half_limit, warm=not warming, usual=usual)
    allowed = limit * own
    if warming:
        allowed = limit * max(own, min(half.their_norm, WARMING_RMS * math.sqrt(values)))
    if norm > allowed:
        return Reach(ratio, min(ratio, _over(allowed, own) or limit), too_far=True)
    return Reach(ratio, max(limit, _over(allowed, own)))


def _over(length: float, own: float) -> float:
    """A length relative to the own weights' length; FARTHEST if these are all zero."""
    if not length or math.isinf(own):
        return 0.0
    return min(length / own, FARTHEST) if own else FARTHEST


class Bound:
    """One peer's bound. ``half_limit``: 0 is no limit. ``warm`` says whether the job has left its warm-up."""

    def __init__(self, half_limit: float, values: int, warm: Callable[[], bool]) -> None:
        self._half_limit = half_limit
        self._values = values
        self._warm = warm
        self._applied = 0
        self._ratios: deque[float] = deque(maxlen=WARM_AFTER)

    @property
    def warming(self) -> bool:
        """Whether this peer warms up, so that the wider limit holds."""
        return bool(self._half_limit) and (self._applied < WARM_AFTER or not self._warm())

    def note_applied(self, ratio: float = 0.0) -> None:
        """Record that a half of this relative length was applied."""
        self._applied += 1
        self._ratios.append(ratio)

    def start_over(self) -> None:
        """Warm up again: the peer has loaded other weights, and approaches the other peers as a joiner does."""
        self._applied = 0
        self._ratios.clear()

    def reach(self, half: HalfStats) -> Reach:
        """The reach of a half as of now."""
        usual = statistics.median(self._ratios) if self._ratios else 0.0
        return reach(half, self._half_limit, warming=self.warming, values=self._values, usual=usual)
