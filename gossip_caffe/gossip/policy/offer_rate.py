"""The rate of offers that one partner may make, where its name is certain: a hostile member gets no more contacts.

Pure but for the memory of recent offers.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Container

from gossip_caffe.gossip.policy.remembering import forget_departed, remember

WINDOW_S = 30.0
FACTOR = 4.0
"""A partner may offer so many times as often as partners usually do, or as this peer itself does."""
ALWAYS = 8
"""So many offers in a window are always allowed."""
FEWEST_PARTNERS = 3
"""With fewer partners than this no partner is unusual."""


def most_offers(own: int, of_partners: list[int]) -> float:
    """The most offers that one partner may make in a window; inf for no limit.

    ``own``: the offers of this peer in the last window; ``of_partners``: those of each partner.
    """
    if len(of_partners) < FEWEST_PARTNERS:
        return float("inf")
    return ALWAYS + FACTOR * max(own, statistics.median(of_partners))


class OfferRates:
    """The offers that came in the last WINDOW_S seconds, by partner, and the own ones."""

    def __init__(self) -> None:
        self._of: dict[str, deque[float]] = {}
        self._own: deque[float] = deque()

    def note_own(self, now_s: float) -> None:
        """Note an offer of this peer."""
        self._own.append(now_s)
        _drop_old(self._own, now_s)

    def objection(self, partner: str, now_s: float) -> str:
        """Why this offer of a partner is one too many; "" if it is not, and then it counts."""
        _drop_old(self._own, now_s)
        for recent in self._of.values():
            _drop_old(recent, now_s)
        offers = self._of.get(partner, deque[float]())
        counts = [len(of) for name, of in self._of.items() if of or name == partner]
        if partner not in self._of:
            counts.append(0)
        most = most_offers(len(self._own), counts)
        if len(offers) + 1 > most:
            return f"{partner} has made {len(offers)} offers in {WINDOW_S:g} s, and the limit is {most:g}"
        offers.append(now_s)
        remember(self._of, partner, offers)
        return ""

    def forget(self, living: Container[str]) -> None:
        """Drop the offers of all partners that are not among ``living``."""
        forget_departed(self._of, living)


def _drop_old(offers: deque[float], now_s: float) -> None:
    while offers and offers[0] < now_s - WINDOW_S:
        offers.popleft()
