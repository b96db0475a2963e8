"""Who trains beside this peer, as its parts ask for it: worked out once for each change of the members.

Among a thousand peers a look at all of them for each exchange would cost more than the exchange.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gossip_caffe.membership.members import PeerRecord


class Company:
    """``training`` gives all that train, this ``peer`` included: the same object until one of them changes."""

    def __init__(self, peer: str, fingerprint: str, training: Callable[[], Mapping[str, PeerRecord]]) -> None:
        self._peer = peer
        self._fingerprint = fingerprint
        self._training = training
        self._seen: Mapping[str, PeerRecord] | None = None
        self._partners: Mapping[str, str] = {}
        self._zones: Mapping[str, str] = {}
        self._first_of: Mapping[str, PeerRecord] | None = None
        self._first = peer

    def partners(self) -> Mapping[str, str]:
        """Who can be asked for an exchange: peer → address."""
        self._look()
        return self._partners

    def zones(self) -> Mapping[str, str]:
        """Where each of them is: peer → zone."""
        self._look()
        return self._zones

    def first(self) -> str:
        """The lowest name of those who train; the own one when nobody does."""
        training = self._training()
        if training is not self._first_of:
            self._first, self._first_of = min(training, default=self._peer), training
        return self._first

    def _look(self) -> None:
        training = self._training()
        if training is self._seen:
            return
        partners = {
            name: training[name]
            for name in sorted(training)
            if name != self._peer and training[name].fingerprint == self._fingerprint
        }
        self._partners = {name: record.address for name, record in partners.items()}
        self._zones = {name: record.zone for name, record in partners.items()}
        self._seen = training
