"""Two peers that offer to each other at once: of their exchanges that overlap exactly one takes place.

Were both applied, from snapshots that know nothing of each other, the two would swap their weights instead of averaging
them. Pure bookkeeping, no waiting. The rules, for an offer that comes while an own offer to its sender is in flight:

1. The own offer stands, and the other is refused (CROSSING), when the own id is the lower one, or when the other says
   that its sender has already answered the own offer: that answer is on its way.
2. Else the other stands, and the own one is withdrawn: the answer says so, an offer that was withdrawn is refused
   should it come later, and an answer to it is ignored.

"In flight" is an offer from before its snapshot is taken until its answer is applied or the offer is given up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from gossip_caffe.gossip.message import Message

T = TypeVar("T")

REMEMBERED = 4096
"""Partners, and withdrawn offers, that are remembered."""


@dataclass(slots=True)
class OwnOffer:
    """The offer that this peer has in flight; ``withdrawn`` when the partner's takes its place."""

    exchange_id: str
    partner: str
    withdrawn: bool = False


class Crossing:
    """One peer's memory of who offered to whom."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._own: OwnOffer | None = None
        self._answered: dict[str, str] = {}
        self._withdrawn: dict[str, None] = {}

    @property
    def own(self) -> OwnOffer | None:
        """The own offer in flight."""
        return self._own

    def begin(self, exchange_id: str, partner: str) -> OwnOffer:
        """An own offer is in flight from now on."""
        self._own = OwnOffer(exchange_id, partner)
        return self._own

    def end(self) -> None:
        """The own offer is over."""
        self._own = None

    def answered_of(self, partner: str) -> str:
        """The partner's offer that was answered last, for the header of an offer to it; "" when there was none."""
        return self._answered.get(partner, "")

    def objection(self, offer: Message) -> str | None:
        """Why another's offer must not be applied now, or None."""
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
        """An offer is applied now; returns the own offer that is withdrawn by that, "" when none is."""
        _keep(self._answered, offer.peer, offer.exchange_id)
        own = self._own
        if own is None or own.partner != offer.peer:
            return ""
        own.withdrawn = True
        return own.exchange_id

    def note(self, message: Message) -> None:
        """Another's offer, or the answer to an own one: what its sender withdraws is refused from now on."""
        for exchange_id in message.withdraws.split():
            _keep(self._withdrawn, exchange_id, None)


def _keep(memory: dict[str, T], key: str, value: T) -> None:
    """Remember the newest REMEMBERED entries."""
    memory.pop(key, None)
    memory[key] = value
    if len(memory) > REMEMBERED:
        del memory[next(iter(memory))]
