"""The streams of words between the leader of rounds and the members that attend it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from gossip_caffe.background import within
from gossip_caffe.clock import Clock
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.rounds.words import RoundLink, Word, WordKind

FIRST_WORD_S = 5.0
MOST_ATTENDING = 1024
BEGINS_TO_LEAD_S = 0.5
"""A peer begins to lead soon after the first member has come, or never."""
SILENT_S = 0.5
"""A member that is in no view any more, and has said nothing for so long although it is asked, is given up."""


@dataclass(slots=True)
class Attending:
    """One member that attends.

    ``words``: those that are still to be sent to it; None ends its stream. ``ready``: its newest READY, None while it
    steps or is in a round; ``ready_at``: when it came, by the clock's ``monotonic``; ``heard_at``: when its newest word
    came, or when it was asked to take part. ``in_view``: the view has shown that it trains.
    """

    peer: str
    words: asyncio.Queue[Word | None] = field(default_factory=asyncio.Queue)
    ready: Word | None = None
    ready_at: float = 0.0
    heard_at: float = 0.0
    in_view: bool = False


class Streams:
    """The streams of the leader ``peer``, by member.

    * ``address_of`` returns the address of a peer that wants to attend; None if the view has never shown it.
    * ``heard`` is called with each word of a member; ``left`` when a member's stream has ended by itself.
    """

    def __init__(
        self,
        peer: str,
        job: str,
        fingerprint: str,
        address_of: Callable[[str], str | None],
        *,
        heard: Callable[[Attending, Word], None],
        left: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self.attending: dict[str, Attending] = {}
        self._peer = peer
        self._job = job
        self._fingerprint = fingerprint
        self._address_of = address_of
        self._heard = heard
        self._left = left
        self._clock = clock

    async def attend(self, link: RoundLink, replaced: Callable[[str], None]) -> None:
        """Speak with one member until its stream ends. ``replaced`` is called first, to end its older stream."""
        try:
            async with self._clock.timeout(FIRST_WORD_S):
                first = await link.receive()
            if objection := self._objection(first):
                await link.send(Word(WordKind.REFUSED, reason=objection))
                return
        except (ExchangeFailed, TimeoutError):
            return
        replaced(first.peer)
        mine = self.attending[first.peer] = Attending(first.peer)
        try:
            async with within(self._send(link, mine), self._receive(link, mine)) as streams:
                await asyncio.wait(streams, return_when=asyncio.FIRST_COMPLETED)
        finally:
            link.close()
            if self.attending.get(first.peer) is mine:
                del self.attending[first.peer]
                self._left(first.peer)

    def _objection(self, word: Word) -> str:
        if word.kind is not WordKind.ATTEND:
            return "the first word is not ATTEND"
        if word.job != self._job or word.fingerprint != self._fingerprint:
            return f"{self._peer} trains another job or another net"
        if self._address_of(word.peer) is None:
            return f"{self._peer} does not know {word.peer[:64]} yet"
        if len(self.attending) >= MOST_ATTENDING and word.peer not in self.attending:
            return f"{MOST_ATTENDING} peers attend already"
        return ""

    async def _send(self, link: RoundLink, mine: Attending) -> None:
        while (word := await mine.words.get()) is not None:
            try:
                await link.send(word)
            except ExchangeFailed:
                return
            if word.kind is WordKind.REFUSED:
                return

    async def _receive(self, link: RoundLink, mine: Attending) -> None:
        while True:
            try:
                word = await link.receive()
            except ExchangeFailed:
                return
            self._heard(mine, word)

    def end(self, peer: str) -> bool:
        """End a member's stream. Returns whether it attended."""
        if (old := self.attending.pop(peer, None)) is None:
            return False
        old.words.put_nowait(None)
        return True

    def refuse_waiting(self, now_s: float) -> None:
        """Refuse the members that have waited long enough for this peer to lead."""
        for mine in self.attending.values():
            if mine.ready is not None and now_s - mine.ready_at > BEGINS_TO_LEAD_S:
                mine.ready = None
                mine.words.put_nowait(Word(WordKind.REFUSED, reason=f"{self._peer} does not lead"))

    def silent(self, training: Collection[str], now_s: float) -> list[str]:
        """The members that have vanished from the view and say nothing. One that leaves says what it must.

        ``training``: the peers that train by the view, with the leader.
        """
        found = []
        for peer, mine in self.attending.items():
            mine.in_view = mine.in_view or peer in training
            is_gone = mine.in_view and peer not in training
            if is_gone and mine.ready is None and now_s - mine.heard_at > SILENT_S:
                found.append(peer)
        return found

    def tell(self, peers: Iterable[str], word: Word) -> None:
        """Send a word to those of these peers that attend."""
        for peer in list(peers):
            if (mine := self.attending.get(peer)) is not None:
                mine.words.put_nowait(word)
