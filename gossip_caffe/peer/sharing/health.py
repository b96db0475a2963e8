"""The evidence that this peer's own weights are wrong. healing.py acts on it; this file only keeps the account.

A peer can see by itself that its weights are not finite, and no other error of them. Its partners can: they refuse its
offers as TOO_FAR, one after another, while no half is applied any more in exchanges of either side.
"""

from __future__ import annotations

from dataclasses import dataclass

WITNESSES = 3
"""The number of different partners that must have refused this peer; both of them, where there are only two."""
REFUSALS = 6
"""The number of refusals in a row that count: a link that corrupts a few messages causes one or two."""
TWICE_WITHIN_S = 600.0
"""A peer that has to go back twice within these seconds ends: its machine, or the job's settings, are wrong."""


@dataclass(frozen=True, slots=True)
class Half:
    """A half that was added to this peer's weights: its partner, the id of its exchange, and the time (monotonic s)."""

    partner: str
    exchange_id: str
    at_s: float = 0.0

    @property
    def words(self) -> str:
        """The exchange and its partner, for people."""
        return f"exchange {self.exchange_id} with {self.partner}"


class OwnHealth:
    """The evidence against one peer's weights. ``last``: the half that was applied last, None before the first."""

    def __init__(self) -> None:
        self.last: Half | None = None
        self._refusers: list[str] = []
        self._went_back_at: float | None = None

    def half_added(self, half: Half) -> None:
        """Note that a half was applied: its partner does not find this peer too far away."""
        self.last = half
        self._refusers.clear()

    def refused(self, partner: str) -> None:
        """Note that a partner has refused an offer as TOO_FAR."""
        self._refusers.append(partner)
        del self._refusers[:-REFUSALS]

    def is_far(self, partners: int) -> bool:
        """Whether enough of so many partners agree that this peer is wrong.

        Always False with one partner: which of the two is wrong cannot be told.
        """
        witnesses = len(set(self._refusers))
        return partners > 1 and len(self._refusers) >= REFUSALS and witnesses >= min(WITNESSES, partners)

    @property
    def refusers(self) -> tuple[str, ...]:
        """The partners that have refused this peer lately, each of them once."""
        return tuple(dict.fromkeys(self._refusers))

    def goes_back(self, now_s: float) -> bool:
        """Note that this peer goes back to the consensus; False when it went back within TWICE_WITHIN_S before."""
        before, self._went_back_at = self._went_back_at, now_s
        self._refusers.clear()
        return before is None or now_s - before >= TWICE_WITHIN_S
