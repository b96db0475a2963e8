"""The other peers as one peer of the synchronous strategy sees them: which train, and which it cannot reach."""

from __future__ import annotations

from gossip_caffe.gossip.policy.partners import AvoidedPartners
from gossip_caffe.gossip.rounds.forming import LeaderChoice, leader_of
from gossip_caffe.peer.core.strategy import StrategyContext


class RoundView:
    """The view of one peer.

    ``rests``: this peer takes part in no round, except as a guest; ``may_lead``: it trains, so that it may lead rounds.
    """

    def __init__(self, around: StrategyContext) -> None:
        self.rests = True
        self.may_lead = False
        self.avoided = AvoidedPartners()
        self._around = around
        self._addresses: dict[str, str] = {}

    @property
    def trains(self) -> bool:
        """Whether this peer is one of those that train."""
        return self.may_lead and not self.rests

    def training(self) -> dict[str, str]:
        """The peers that train by the view, with this one: peer → address."""
        partners = dict(self._around.partners())
        self._addresses.update(partners)
        if self.trains:
            partners[self._around.peer] = self._around.address()
        return partners

    def leader(self) -> LeaderChoice:
        """The leader of the next round."""
        partners = self._around.partners()
        self._addresses.update(partners)
        return leader_of(self._around.peer, trains=self.trains, partners=partners, avoided=self.avoided_now())

    def address_of(self, peer: str) -> str | None:
        """The address of a peer; None if the view has never shown it."""
        if peer == self._around.peer:
            return self._around.address()
        if (address := self._around.address_of(peer)) is not None:
            self._addresses[peer] = address
        return self._addresses.get(peer)

    def avoided_now(self) -> list[str]:
        """The peers that could not be attended, and are left alone for a while."""
        now_s = self._around.clock.monotonic()
        return [peer for peer in self.avoided.until if self.avoided.avoided(peer, now_s)]
