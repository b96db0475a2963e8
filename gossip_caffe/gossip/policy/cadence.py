"""The interval between a peer's own exchanges: fixed by the job, or as long as keeps the peers close to each other.

`auto` keeps the consensus distance, estimated from the exchanges themselves (health.py), near a threshold. Each peer
exchanges more often while the distance is above it, and more rarely while it is below. Peers drift apart by their
learning rate and the noise of their gradients. So bytes are spent while the rate is high, and saved after it has
fallen. (Kong et al. 2021 show that a distance below a threshold costs no accuracy.) The functions are pure. The peers
need no agreement, because all of them see nearly the same distances.
"""

from __future__ import annotations

from dataclasses import dataclass

SHORTEST, LONGEST = 4.0, 64.0
"""The range of iterations between own exchanges under `auto`. Beyond the longest, training may diverge."""
GAIN = 0.25
"""The interval is multiplied by (threshold / distance) to this power.

The distance grows with the first to second power of the interval, and the running mean lags by some five own exchanges.
This control loop is stable for powers below 1/2, and does not oscillate at this one.
"""
FASTER, SLOWER = 0.5, 1.1
"""The bounds of one change of the interval: it shrinks quickly when peers drift apart, and grows slowly."""


@dataclass(frozen=True, slots=True)
class Cadence:
    """``every``: the iterations between own exchanges, before jitter. ``reason``: why it is that many."""

    every: float
    reason: str


def steered(before: Cadence, mean_distance: float | None, held: float) -> Cadence:
    """The cadence after an exchange. ``mean_distance``: the running consensus distance; ``held``: the threshold."""
    if mean_distance is None:
        return before
    ratio = held / mean_distance if mean_distance > 0 else float("inf")
    factor = min(SLOWER, max(FASTER, ratio**GAIN))
    every = min(LONGEST, max(SHORTEST, before.every * factor))
    return Cadence(every, f"the distance is {mean_distance:.2g}, and {held:.2g} is held")
