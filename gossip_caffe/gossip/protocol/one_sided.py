"""Halves that only the answering side applied: that side knows each of them exactly.

An offer that its sender gave up may still have been answered. Then the partner has applied its half alone, and the sum
of all weights has moved by that half. The sender names such offers in its next offers to that partner (``withdraws``),
until an answer shows that the partner has read them. The partner knows which halves it applied.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from gossip_caffe.gossip.averaging.bound import UNMEASURED, Reach
from gossip_caffe.gossip.policy.remembering import forget_departed, remember

REMEMBERED = 4096
"""The number of answered offers whose halves are remembered."""
NAMED = 64
"""The number of given-up offers to one partner that are kept and named in an offer; older ones are dropped."""


@dataclass(frozen=True, slots=True)
class AppliedHalf:
    """A half that was added to this peer's weights: ``total`` is the sum of its values, ``norm`` its length ‖δ‖.

    ``distance`` is that of the two sides, ``reach`` the half's length in lengths of the own weights.
    ``by`` is the carrier of the weights, if a log is to name it; ``share`` the part that was added, if it was cut.
    """

    exchange_id: str
    partner: str
    distance: float
    total: float
    norm: float
    reach: Reach = UNMEASURED
    by: str = ""
    share: float = 1.0


class GivenUp:
    """One peer's own offers that it gave up, although the partner may have applied its half."""

    def __init__(self) -> None:
        self._of: dict[str, list[str]] = {}

    def add(self, partner: str, exchange_id: str) -> None:
        """Record that this offer is given up."""
        remember(self._of, partner, [*self._of.get(partner, ()), exchange_id][-NAMED:])

    def named_to(self, partner: str) -> tuple[str, ...]:
        """The ids that the next offer to that partner names."""
        return tuple(self._of.get(partner, ()))

    def told(self, partner: str, exchange_ids: Sequence[str]) -> None:
        """Record that the partner has read these ids."""
        left = [given_up for given_up in self._of.pop(partner, ()) if given_up not in exchange_ids]
        if left:
            remember(self._of, partner, left)

    def forget(self, living: Container[str]) -> None:
        """Drop the records of all partners that are not among ``living``."""
        forget_departed(self._of, living)


class OneSided:
    """The halves that a peer applied as the answering side, and those of them whose offerer applied nothing.

    ``count`` is the number of the latter, ``mass_error`` the sum of their values: the shift of the sum of all weights.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mass_error = 0.0
        self._applied: dict[str, AppliedHalf] = {}

    def applied(self, half: AppliedHalf) -> None:
        """Record that a half was applied. The partner counts as having applied its own until it reports otherwise."""
        self._applied[half.exchange_id] = half
        if len(self._applied) > REMEMBERED:
            del self._applied[next(iter(self._applied))]

    def given_up(self, partner: str, exchange_ids: Sequence[str]) -> list[AppliedHalf]:
        """The halves of these given-up offers of ``partner`` that were applied here; each half is counted once."""
        alone = []
        for exchange_id in exchange_ids:
            half = self._applied.get(exchange_id)
            if half is not None and half.partner == partner:
                del self._applied[exchange_id]
                self.count += 1
                self.mass_error += half.total
                alone.append(half)
        return alone
