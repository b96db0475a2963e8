"""The health figure of gossip: the distance between the peers."""

from __future__ import annotations

from enum import StrEnum

WARN_ABOVE = 1e-3
ALARM_ABOVE = 1e-2
MEMORY = 0.9
"""The weight of the past in the running mean."""


class GossipHealth(StrEnum):
    """The judgements of a running consensus distance."""

    WELL = "well"
    APART = "apart"  # exchanges are too rare for this learning rate
    DRIFTING = "drifting"  # the peers train different models: averaging them may ruin both


def running_mean(before: float | None, distance: float) -> float:
    """The running mean of the consensus distance with one more exchange in it."""
    return distance if before is None else MEMORY * before + (1 - MEMORY) * distance


def health(mean_distance: float | None) -> GossipHealth:
    """The judgement of a running mean; None: no exchange yet.

    The thresholds are from simulated training of small nets.
    """
    if mean_distance is None or mean_distance <= WARN_ABOVE:
        return GossipHealth.WELL
    return GossipHealth.APART if mean_distance <= ALARM_ABOVE else GossipHealth.DRIFTING
