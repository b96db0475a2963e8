"""Halves that only one side applied: known exactly, and to the side that applied them.

An offer that its sender has given up may have been answered all the same: then the partner has applied its half alone,
and the sum of all weights has moved by that half. The sender names such offers in its next one to that partner
(``withdraws``), again and again until an answer shows that it was read; the partner knows what it applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

REMEMBERED = 4096
"""Answered offers whose halves are remembered."""
NAMED = 64
"""Given-up offers that one offer names; older ones are left out."""


@dataclass(frozen=True, slots=True)
class AppliedHalf:
    """A half that was added to this peer's weights: ``total`` is the sum of its values, ``norm`` its length ‖δ‖."""

    exchange_id: str
    partner: str
    distance: float
    total: float
    norm: float


class GivenUp:
    """One peer's own offers that brought it nothing, though the partner may have applied its half."""

    def __init__(self) -> None:
        self._of: dict[str, list[str]] = {}

    def add(self, partner: str, exchange_id: str) -> None:
        """This offer is given up."""
        self._of.setdefault(partner, []).append(exchange_id)

    def named_to(self, partner: str) -> tuple[str, ...]:
        """What the next offer to that partner names."""
        return tuple(self._of.get(partner, ())[-NAMED:])

    def told(self, partner: str, exchange_ids: Sequence[str]) -> None:
        """The partner has read these."""
        left = [given_up for given_up in self._of.pop(partner, ()) if given_up not in exchange_ids]
        if left:
            self._of[partner] = left


class OneSided:
    """The halves that a peer applied as the answering side, and which of them nobody else applied.

    ``count`` of those, and ``mass_error``: by how much they moved the sum of all weights.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mass_error = 0.0
        self._applied: dict[str, AppliedHalf] = {}

    def applied(self, half: AppliedHalf) -> None:
        """A half was applied; the partner will apply its own, as far as is known."""
        self._applied[half.exchange_id] = half
        if len(self._applied) > REMEMBERED:
            del self._applied[next(iter(self._applied))]

    def given_up(self, partner: str, exchange_ids: Sequence[str]) -> list[AppliedHalf]:
        """The partner has given these up: the halves among them that were applied here, each counted once."""
        alone = []
        for exchange_id in exchange_ids:
            half = self._applied.get(exchange_id)
            if half is not None and half.partner == partner:
                del self._applied[exchange_id]
                self.count += 1
                self.mass_error += half.total
                alone.append(half)
        return alone
