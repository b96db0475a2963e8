"""How often to exchange: as the job says, or as seldom as holds the peers together.

`auto` holds the consensus distance, estimated from the exchanges themselves (health.py), near a threshold: each peer
exchanges more often while it finds others further away, and more seldom while they are nearer than needed. Peers
drift apart by their learning rate and the noise of their gradients, so bytes go where the rate is high, and are
saved where it has fallen. (Kong et al. 2021 show that a distance below a threshold costs no accuracy.) Pure: nobody
agrees on anything, for all peers see nearly the same distances.
"""

from __future__ import annotations

from dataclasses import dataclass

SHORTEST, LONGEST = 4.0, 64.0
"""Iterations between a peer's own exchanges that `auto` chooses from. Beyond the longest, training may diverge."""
GAIN = 0.25
"""Power of the ratio of threshold and distance by which the cadence is multiplied.

The distance follows the cadence's first to second power, and the running mean lags by some five exchanges of one's own:
the loop of both is stable for gains below 1/2, and does not swing at this one.
"""
FASTER, SLOWER = 0.5, 1.1
"""Bounds of one change: quick when peers drift apart, slow to trust that they do not."""


@dataclass(frozen=True, slots=True)
class Cadence:
    """``every``: iterations between own exchanges, before jitter, and why so many."""

    every: float
    reason: str


def steered(before: Cadence, mean_distance: float | None, held: float) -> Cadence:
    """The cadence after an exchange, given the running consensus distance and the one to be held."""
    if mean_distance is None:
        return before
    ratio = held / mean_distance if mean_distance > 0 else float("inf")
    factor = min(SLOWER, max(FASTER, ratio**GAIN))
    every = min(LONGEST, max(SHORTEST, before.every * factor))
    return Cadence(every, f"the distance is {mean_distance:.2g}, and {held:.2g} is held")
