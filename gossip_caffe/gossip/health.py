"""The health figure of gossip: how far the peers are apart."""

from __future__ import annotations

from enum import StrEnum

WARN_ABOVE = 1e-3
ALARM_ABOVE = 1e-2
MEMORY = 0.9
"""Weight of the past in the running mean."""


class Health(StrEnum):
    """What a running consensus distance says."""

    WELL = "well"
    APART = "apart"  # exchanges are too rare for this learning rate
    DRIFTING = "drifting"  # the peers train different models: averaging them may ruin both


def running_mean(before: float | None, distance: float) -> float:
    """The running mean of the consensus distance with one more exchange in it."""
    return distance if before is None else MEMORY * before + (1 - MEMORY) * distance


def health(mean_distance: float | None) -> Health:
    """What a running mean says; thresholds from simulated training of small nets. None: no exchange yet."""
    if mean_distance is None or mean_distance <= WARN_ABOVE:
        return Health.WELL
    return Health.APART if mean_distance <= ALARM_ABOVE else Health.DRIFTING
