"""Two peers that offer to each other at once: exactly one of the two overlapping exchanges takes place.

If both were applied, from snapshots that were taken before either, the two peers would swap their weights instead of
averaging them. This module is pure bookkeeping: no side waits. Two rules apply to an offer that comes while an own
offer to its sender is in flight:

1. The own offer stands, and the other is refused (CROSSING), if the own id is the lower one, or if the other offer says
   that its sender has already answered the own offer: that answer is on its way.
2. Otherwise the other offer stands, and the own one is withdrawn. The answer names the withdrawn offer; the other peer
   refuses it if it comes later, and this peer ignores an answer to it.

An offer is in flight from before its snapshot is taken until its answer is applied or the offer is given up.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from gossip_caffe.gossip.codecs.message import Message
from gossip_caffe.gossip.policy.remembering import forget_departed, remember

REMEMBERED = 4096
"""The number of withdrawn offers that are remembered."""


@dataclass(slots=True)
class OwnOffer:
    """The offer that this peer has in flight. ``withdrawn``: the partner's crossing offer was applied instead."""

    exchange_id: str
    partner: str
    withdrawn: bool = False


class Crossing:
    """One peer's record of its own offer in flight, and of the offers that it answered or that were withdrawn."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._own: OwnOffer | None = None
        self._answered: dict[str, str] = {}
        self._withdrawn: dict[str, None] = {}

    @property
    def own(self) -> OwnOffer | None:
        """The own offer in flight, or None."""
        return self._own

    def begin(self, exchange_id: str, partner: str) -> OwnOffer:
        """Record that an own offer is in flight from now on."""
        self._own = OwnOffer(exchange_id, partner)
        return self._own

    def end(self) -> None:
        """Record that the own offer is over."""
        self._own = None

    def answered_of(self, partner: str) -> str:
        """The id of the partner's offer that this peer answered last, "" if none. The next offer's header names it."""
        return self._answered.get(partner, "")

    def objection(self, offer: Message) -> str | None:
        """The reason why another peer's offer must not be applied now, or None."""
        if offer.exchange_id in self._withdrawn:
            return f"{offer.peer} has withdrawn this offer"
        own = self._own
        if own is None or own.partner != offer.peer:
            return None
        if offer.answered == own.exchange_id:
            return f"the offer of {self._peer} was answered before this one was made"
        if self._peer < offer.peer:
            return f"the offer of {self._peer} stands"
        return None

    def accept(self, offer: Message) -> str:
        """Record that an offer is applied now; returns the id of the own offer that this withdraws, "" if none."""
        remember(self._answered, offer.peer, offer.exchange_id)
        own = self._own
        if own is None or own.partner != offer.peer:
            return ""
        own.withdrawn = True
        return own.exchange_id

    def note(self, message: Message) -> None:
        """Refuse from now on the offers that the sender of ``message`` withdraws in it."""
        for exchange_id in message.withdraws.split():
            remember(self._withdrawn, exchange_id, None, REMEMBERED)

    def forget(self, living: Container[str]) -> None:
        """Drop the records of all partners that are not among ``living``."""
        forget_departed(self._answered, living)
