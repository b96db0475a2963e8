"""How long to wait for the answer to an offer: each partner is as far away, and as fast, as it is."""

from __future__ import annotations

SHORTEST_S = 2.0
FIRST_S = 5.0
FIRST_BYTES_PER_S = 10e6
LONGEST_S = 60.0
SLOWEST_BYTES_PER_S = 1e6
PATIENCE = 4.0
"""A deadline is this many times what exchanges took lately."""
MEMORY = 0.8
"""Weight of the past in what exchanges took lately."""
REMEMBERED = 1024
"""Partners whose deadlines are remembered; of the others nothing is known yet."""


def first_deadline_s(both_ways_bytes: int) -> float:
    """What to allow a transfer of which nothing is known yet: 5 s, and a second for each 10 MB."""
    return FIRST_S + both_ways_bytes / FIRST_BYTES_PER_S


class Deadline:
    """The deadline of the next offer to one partner, learned from the last ones.

    A deadline that passes doubles the next one: a network that became slower is found out, not given up on.
    """

    def __init__(self, both_ways_bytes: int) -> None:
        self._next_s = first_deadline_s(both_ways_bytes)
        self._longest_s = LONGEST_S + both_ways_bytes / SLOWEST_BYTES_PER_S
        self._lately_s = 0.0

    @property
    def seconds(self) -> float:
        """The deadline of the next offer."""
        return self._next_s

    def answered(self, took_s: float) -> None:
        """A whole answer came after that many seconds."""
        self._lately_s = MEMORY * self._lately_s + (1 - MEMORY) * took_s if self._lately_s else took_s
        self._next_s = min(self._longest_s, max(SHORTEST_S, PATIENCE * self._lately_s))

    def passed(self) -> None:
        """No answer came in time."""
        self._next_s = min(self._longest_s, 2 * self._next_s)


class Deadlines:
    """One for each partner: what a near one takes says nothing of a far one."""

    def __init__(self, both_ways_bytes: int) -> None:
        self._both_ways_bytes = both_ways_bytes
        self._of: dict[str, Deadline] = {}

    def of(self, partner: str) -> Deadline:
        """That of a partner; who was asked longest ago is forgotten when there are many."""
        found = self._of.pop(partner, None) or Deadline(self._both_ways_bytes)
        self._of[partner] = found
        if len(self._of) > REMEMBERED:
            del self._of[next(iter(self._of))]
        return found
