"""The interval between a peer's own exchanges: fixed by the job, or as long as keeps the peers close to each other.

`auto` keeps the consensus distance, estimated from the exchanges themselves (health.py), near a threshold. Each peer
exchanges more often while the distance is above it, and more rarely while it is below. Peers drift apart by their
learning rate and the noise of their gradients. So bytes are spent while the rate is high, and saved after it has
fallen. (Kong et al. 2021 show that a distance below a threshold costs no accuracy.) The functions are pure. The peers
need no agreement, because all of them see nearly the same distances.

Where a peer begins follows from the length of the job: peers learn as an all-reduce does if each makes some 130
exchanges in the run, and clearly less if it makes fewer than 70 (digits, Fashion-MNIST; 8 and 16 peers). In the job's
first tenth, while the rate is high and the peers learn most, exchanges are twice as frequent. A budget of bytes bounds
all of that from below.
"""

from __future__ import annotations

from dataclasses import dataclass

SHORTEST, LONGEST = 4.0, 64.0
"""The range of iterations between own exchanges under `auto`. Beyond the longest, training may diverge. A job that
begins with a shorter interval keeps that as its shortest."""
EXCHANGES = 130.0
"""The own exchanges in a run that a peer should make."""
SHORTEST_START = 2.0
EARLY = 0.1
"""The share of the job in which exchanges are more frequent,"""
EARLY_TIMES = 2.0
"""and by how much."""
FLOAT32_BYTES = 4.0
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


@dataclass(frozen=True, slots=True)
class Outlook:
    """The job as one peer sees it. ``iterations``: those that each peer makes of the whole job if as many live as now.

    ``share``: the share of the job that is done; ``living``: the peers that train.
    """

    iterations: float
    share: float = 1.0
    living: int = 2


def begun(iterations: float, longest: float) -> Cadence:
    """The first cadence under `auto` of a peer that makes ``iterations`` in the run. ``longest``: the job's setting."""
    shortest = min(SHORTEST_START, longest)
    every = min(longest, max(shortest, iterations / EXCHANGES))
    return Cadence(every, f"{iterations:.0f} iterations a peer, and {EXCHANGES:.0f} exchanges are wanted")


def steered(before: Cadence, mean_distance: float | None, held: float, shortest: float = SHORTEST) -> Cadence:
    """The cadence after an exchange. ``mean_distance``: the running consensus distance; ``held``: the threshold."""
    if mean_distance is None:
        return before
    ratio = held / mean_distance if mean_distance > 0 else float("inf")
    factor = min(SLOWER, max(FASTER, ratio**GAIN))
    every = min(LONGEST, max(shortest, before.every * factor))
    return Cadence(every, f"the distance is {mean_distance:.2g}, and {held:.2g} is held")


def early(cadence: Cadence, share: float, shortest: float = SHORTEST_START) -> Cadence:
    """The cadence at this share of the job: in its first tenth exchanges are more frequent."""
    if share >= EARLY or cadence.every <= shortest:
        return cadence
    every = max(shortest, cadence.every / EARLY_TIMES)
    return Cadence(every, f"{cadence.reason}; the job is in its first {EARLY:.0%}")


def affordable(cadence: Cadence, budget: float, living: int, value_bytes: float) -> Cadence:
    """The cadence, or a slower one that keeps to the budget of bytes.

    ``budget``: the most bytes of weights, relative to those of a ring all-reduce of float32 in each iteration; 0: any
    number. ``value_bytes``: those of one weight under the job's codec. A peer and its partner send one payload each for
    an exchange, and a member of an all-reduce sends 2(n − 1)/n vectors (Patarasuk & Yuan 2009).
    """
    if not budget or living < 2:
        return cadence
    ring = 2 * (living - 1) / living * FLOAT32_BYTES
    every = 2 * value_bytes / (budget * ring)
    if every <= cadence.every:
        return cadence
    return Cadence(every, f"a budget of {budget:.3g} of all-reduce's bytes allows no more")
