"""The partners of a peer: the other peers that train. The set is updated with each change of the members.

Among a thousand peers a look at all of them for each exchange would cost more than the exchange.
"""

from __future__ import annotations

from collections.abc import Mapping

from gossip_caffe.membership.members import MembersView, PeerRecord
from gossip_caffe.peer.core.lifecycle import State

_TRAINING = State.TRAINING.value
_UNSORTED = 32
_UNSORTED_SHARE = 0.25
"""Partners are sorted again only after max(32, 25 %) unsorted insertions.

The choice of a partner sorts them anyway; and when a thousand peers join at once, each of them inserts all the others.
"""


class LivePartners:
    """The other peers in ``view`` that train weights of the layout ``fingerprint``.

    ``addresses``: peer → address; ``zones``: peer → zone. Both change with the members: a caller that awaits anything
    between two reads takes a copy.
    """

    def __init__(self, view: MembersView, peer: str, fingerprint: str) -> None:
        self._peer = peer
        self._fingerprint = fingerprint
        self._unsorted = 0
        self.addresses: dict[str, str] = {}
        self.zones: dict[str, str] = {}
        for _, record in sorted(view.in_state(_TRAINING).items()):
            self._changed(None, record)
        self._subscription = view.listen(self._changed)

    def close(self) -> None:
        """Stop listening to the view."""
        self._subscription.close()

    def _changed(self, was: PeerRecord | None, now: PeerRecord | None) -> None:
        if now is not None and self._is_partner(now):
            if self.addresses.get(now.peer) == now.address and self.zones[now.peer] == now.zone:
                return
            self.addresses[now.peer], self.zones[now.peer] = now.address, now.zone
            self._unsorted += 1
            if self._unsorted > max(_UNSORTED, _UNSORTED_SHARE * len(self.addresses)):
                self.addresses, self.zones = _sorted(self.addresses), _sorted(self.zones)
                self._unsorted = 0
        elif (gone := was or now) is not None and gone.peer in self.addresses:
            del self.addresses[gone.peer], self.zones[gone.peer]

    def _is_partner(self, record: PeerRecord) -> bool:
        is_other = record.peer != self._peer
        return is_other and record.state == _TRAINING and record.fingerprint == self._fingerprint


def _sorted(entries: Mapping[str, str]) -> dict[str, str]:
    return dict(sorted(entries.items()))
