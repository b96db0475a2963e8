"""Who trains beside this peer and can be asked, kept up to date change by change.

Among a thousand peers a look at all of them for each exchange would cost more than the exchange.
"""

from __future__ import annotations

from collections.abc import Mapping

from gossip_caffe.membership.members import MembersView, PeerRecord
from gossip_caffe.peer.lifecycle import State

_TRAINING = State.TRAINING.value
_UNSORTED = 32
_UNSORTED_SHARE = 0.25
"""So many come last, and of many such a share of all, in the order in which they came, before all are sorted again.

Who chooses sorts them anyway; and where a thousand join at once, each of them sees all the others come.
"""


class Company:
    """The others in ``view`` whose weights are of this ``fingerprint``.

    ``addresses`` and ``zones``: peer → its own; both change while somebody waits, so who waits takes a copy.
    """

    def __init__(self, view: MembersView, peer: str, fingerprint: str) -> None:
        self._peer = peer
        self._fingerprint = fingerprint
        self._unsorted = 0
        self.addresses: dict[str, str] = {}
        self.zones: dict[str, str] = {}
        for _, record in sorted(view.in_state(_TRAINING).items()):
            self._changed(None, record)
        view.on_change.append(self._changed)

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
