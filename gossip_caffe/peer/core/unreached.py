"""Peers of the job that this peer cannot reach: since when, for which cause, and a line for people now and then.

A peer that has died cannot be reached either, until its lease ends and its record goes. So nothing is said before the
lease of a dead peer would have ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gossip_caffe.clock import Clock
from gossip_caffe.gossip.policy.contact import cause_of
from gossip_caffe.membership.members import PeerRecord

LOOK_EVERY_S = 0.5
SAY_AFTER_S, SAY_AFTER_AT_MOST_S = 5.0, 8.0
"""A peer is named after the lease's time to live and BEYOND_LEASE_S without an answer, within these two limits."""
BEYOND_LEASE_S = 1.5
SAY_AGAIN_S, SAY_AGAIN_AT_MOST_S = 60.0, 3600.0
"""Seconds until the same peer is named again: the first pause, and the longest. Each pause is twice the one before."""
NO_ANSWER = "no answer"
CANNOT_REACH = "cannot reach"


@dataclass(slots=True)
class _Peer:
    since: float
    address: str = ""
    cause: str = ""
    say_at: float = 0.0
    again_s: float = SAY_AGAIN_S


class Unreached:
    """The peers that ``peer`` cannot reach.

    ``members`` returns all peers that have a record. ``lease_ttl_s``: seconds for which a dead peer's record stays.
    """

    def __init__(
        self,
        peer: str,
        clock: Clock,
        say: Callable[[str], None],
        members: Callable[[], Mapping[str, PeerRecord]],
        lease_ttl_s: float,
    ) -> None:
        self._peer = peer
        self._clock = clock
        self._say = say
        self._members = members
        self._after_s = min(SAY_AFTER_AT_MOST_S, max(SAY_AFTER_S, lease_ttl_s + BEYOND_LEASE_S))
        self._peers: dict[str, _Peer] = {}

    def trying(self, peer: str) -> None:
        """Note that a call to ``peer`` begins; a call that lasts long counts as no answer."""
        if peer not in self._peers:
            now = self._clock.monotonic()
            self._peers[peer] = _Peer(now, say_at=now + self._after_s)

    def answered(self, peer: str) -> None:
        """Note that ``peer`` has answered: it is reached again."""
        self._peers.pop(peer, None)

    def failed(self, peer: str, address: str, why: str) -> None:
        """Note that a call to ``peer`` has failed; a failure of another kind than the connection's is an answer."""
        if cause := cause_of(why):
            self.trying(peer)
            self._peers[peer].address, self._peers[peer].cause = address, cause
        else:
            self.answered(peer)

    def is_unreached(self, peer: str) -> bool:
        """Whether ``peer`` has not answered for so long that it is named."""
        found = self._peers.get(peer)
        return found is not None and self._clock.monotonic() >= found.since + self._after_s

    @property
    def lines(self) -> tuple[str, ...]:
        """One line for each member that cannot be reached now."""
        members = self._members()
        return tuple(
            self._line(peer, found, members[peer].address)
            for peer, found in sorted(self._peers.items())
            if peer in members and self.is_unreached(peer)
        )

    def look(self) -> None:
        """Say the lines that are due, and forget the peers that have no record any more."""
        members, now = self._members(), self._clock.monotonic()
        for peer in self._peers.keys() - members.keys():
            # A holder of a checkpoint that has no record has ended, so it cannot answer.
            del self._peers[peer]
        for peer, found in self._peers.items():
            if now >= found.say_at:
                found.say_at, found.again_s = now + found.again_s, min(2 * found.again_s, SAY_AGAIN_AT_MOST_S)
                self._say(f"{self._peer}: {self._line(peer, found, members[peer].address)}")

    def trouble(self, newest: str) -> str:
        """The line that a table shows: the peers that cannot be reached now, or else this peer's ``newest`` line.

        Returns "" for a ``newest`` line about a peer that was reached since.
        """
        if self.lines:
            return f"{self._peer}: {'; '.join(self.lines)}"
        return "" if newest.startswith(f"{self._peer}: {CANNOT_REACH} ") else newest

    async def follow(self) -> None:
        """Say the lines that are due, for ever."""
        while True:
            self.look()
            await self._clock.sleep(LOOK_EVERY_S)

    def _line(self, peer: str, found: _Peer, address: str) -> str:
        where = found.address or address
        remedy = f"check --advertise of {peer}, the firewall, and the second port (bulk)"
        if "certificate" in found.cause or "TLS" in found.cause:
            remedy = "compare the certificates of both with 'gossip-caffe tls show'"
        return f"{CANNOT_REACH} {peer} at {where} ({found.cause or NO_ANSWER}); {remedy}"
