"""The deadlines of offers and transfers. Each partner has a deadline of its own, learned from its last exchanges."""

from __future__ import annotations

from collections.abc import Container

from gossip_caffe.gossip.policy.remembering import MOST_PARTNERS, forget_departed, remember

SHORTEST_S = 2.0
FIRST_S = 5.0
FIRST_BYTES_PER_S = 10e6
LONGEST_S = 60.0
SLOWEST_BYTES_PER_S = 1e6
PATIENCE = 4.0
"""A deadline is this many times the recent duration of exchanges."""
MEMORY = 0.8
"""The weight of the past in the recent duration of exchanges."""
REMEMBERED = MOST_PARTNERS
"""The number of partners whose deadlines are remembered."""


def first_deadline_s(both_ways_bytes: int) -> float:
    """The deadline of a transfer with an unknown partner: 5 s, and a second for each 10 MB of both directions."""
    return FIRST_S + both_ways_bytes / FIRST_BYTES_PER_S


def whole_deadline_s(both_ways_bytes: int, allowed_s: float = 0.0) -> float:
    """The time that a receiver allows for a transfer of that size.

    It is the sender's own deadline (``allowed_s``; 0: it named none), but at least that of a first transfer, and at
    most the longest deadline that a sender can have.
    """
    return max(first_deadline_s(both_ways_bytes), min(allowed_s, _longest_s(both_ways_bytes)))


def _longest_s(both_ways_bytes: int) -> float:
    return LONGEST_S + both_ways_bytes / SLOWEST_BYTES_PER_S


class Deadline:
    """The deadline of the next offer to one partner, learned from the last offers.

    A deadline that passes doubles the next one, so that the deadline adapts to a network that became slower.
    """

    def __init__(self, both_ways_bytes: int) -> None:
        self._next_s = first_deadline_s(both_ways_bytes)
        self._longest_s = _longest_s(both_ways_bytes)
        self._lately_s = 0.0

    @property
    def seconds(self) -> float:
        """The deadline of the next offer, in seconds."""
        return self._next_s

    def answered(self, took_s: float) -> None:
        """Record that a whole answer came after that many seconds."""
        self._lately_s = MEMORY * self._lately_s + (1 - MEMORY) * took_s if self._lately_s else took_s
        self._next_s = min(self._longest_s, max(SHORTEST_S, PATIENCE * self._lately_s))

    def passed(self) -> None:
        """Record that no answer came in time."""
        self._next_s = min(self._longest_s, 2 * self._next_s)


class Deadlines:
    """A deadline for each partner: a near partner's durations say nothing about those of a distant one."""

    def __init__(self, both_ways_bytes: int) -> None:
        self._both_ways_bytes = both_ways_bytes
        self._of: dict[str, Deadline] = {}

    def of(self, partner: str) -> Deadline:
        """The deadline of a partner. Beyond REMEMBERED partners, the one asked longest ago is forgotten."""
        found = self._of.get(partner) or Deadline(self._both_ways_bytes)
        remember(self._of, partner, found, REMEMBERED)
        return found

    def forget(self, living: Container[str]) -> None:
        """Drop the deadlines of all partners that are not among ``living``."""
        forget_departed(self._of, living)
