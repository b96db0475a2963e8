"""The leader of rounds: it hears who is ready, forms the rounds, and commits or aborts each.

Every peer can lead, and the peer with the lowest name does. ``forming`` and ``judging`` make the decisions; this file
keeps what they read, and tells the members. The leader is a member of its own rounds, over a stream to itself.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace

from gossip_caffe.background import within
from gossip_caffe.clock import Clock
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.codecs.message import Refusal
from gossip_caffe.gossip.policy.partners import AvoidedPartners
from gossip_caffe.gossip.rounds.forming import Formation, Situation, Standing, formation, unreachable
from gossip_caffe.gossip.rounds.judging import judged
from gossip_caffe.gossip.rounds.words import Member, RoundLink, Word, WordKind

AWAITED_S = 1.0
"""A peer that trains by the view, and has not attended this leader yet, is waited for so long."""
FIRST_WORD_S = 5.0
MOST_ATTENDING = 1024
MOST_ROUNDS = 64
"""The number of newest rounds whose appliers are remembered."""
LOOK_S = 0.05


@dataclass(slots=True)
class _Attending:
    """One stream to a member. ``words``: those that are still to be sent; None ends the stream."""

    peer: str
    words: asyncio.Queue[Word | None] = field(default_factory=asyncio.Queue)
    ready: Word | None = None
    ready_at: float = 0.0
    in_view: bool = False


@dataclass(slots=True)
class _Round:
    """A round that is formed and not committed."""

    id: str
    members: tuple[Member, ...]
    scattered: dict[str, Word] = field(default_factory=dict)


class Leading:
    """The leading of rounds by one peer.

    * ``address_of`` returns the address of a peer that attends; None if the view has never shown it.
    * ``training`` returns the peers that train by the view, this one among them if it does: peer → address.
    * ``half_limit`` returns the limit of one exchange now; 0: no limit.
    * ``avoided`` tells which peers this one cannot attend, so that it does not wait for them.
    * ``noted`` is called with a line for the log of people when a member is left out.
    """

    def __init__(
        self,
        *,
        peer: str,
        job: str,
        fingerprint: str,
        address_of: Callable[[str], str | None],
        training: Callable[[], Mapping[str, str]],
        half_limit: Callable[[], float],
        avoided: Callable[[], Container[str]],
        noted: Callable[[str, str], None],
        patience_s: float,
        start_peers: int,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.leads = False
        """Whether this peer attends itself, so that it may form rounds."""
        self.reason = "it has not led yet"
        self._peer = peer
        self._job = job
        self._fingerprint = fingerprint
        self._address_of = address_of
        self._training = training
        self._half_limit = half_limit
        self._avoided = avoided
        self._noted = noted
        self._patience_s = patience_s
        self._start_peers = start_peers
        self._clock = clock
        self._rng = rng
        self._attending: dict[str, _Attending] = {}
        self._seen_at: dict[str, float] = {}
        self._gone: set[str] = set()
        self._round: _Round | None = None
        self._committed: _Round | None = None
        self._appliers: dict[str, set[str]] = {}
        self._reports: dict[str, frozenset[str]] = {}
        self._unreached = AvoidedPartners()
        self._excluded: set[str] = set()

    @property
    def company(self) -> bool:
        """Whether any other peer attends, or is awaited."""
        return any(peer != self._peer for peer in self._attending) or bool(self._awaited())

    # ── streams ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def attend(self, link: RoundLink) -> None:
        """Speak with one member until its stream ends."""
        try:
            async with self._clock.timeout(FIRST_WORD_S):
                first = await link.receive()
            if objection := self._objection(first):
                await link.send(Word(WordKind.REFUSED, reason=objection))
                return
        except (ExchangeFailed, TimeoutError):
            return
        self._end(first.peer)
        mine = self._attending[first.peer] = _Attending(first.peer)
        self._gone.discard(first.peer)
        try:
            async with within(self._send(link, mine), self._receive(link, mine)) as streams:
                await asyncio.wait(streams, return_when=asyncio.FIRST_COMPLETED)
        finally:
            link.close()
            if self._attending.get(first.peer) is mine:
                del self._attending[first.peer]
                self._left(first.peer)

    def _objection(self, word: Word) -> str:
        if word.kind is not WordKind.ATTEND:
            return "the first word is not ATTEND"
        if word.job != self._job or word.fingerprint != self._fingerprint:
            return f"{self._peer} trains another job or another net"
        if self._address_of(word.peer) is None:
            return f"{self._peer} does not know {word.peer[:64]} yet"
        if len(self._attending) >= MOST_ATTENDING and word.peer not in self._attending:
            return f"{MOST_ATTENDING} peers attend already"
        return ""

    async def _send(self, link: RoundLink, mine: _Attending) -> None:
        while (word := await mine.words.get()) is not None:
            try:
                await link.send(word)
            except ExchangeFailed:
                return
            if word.kind is WordKind.REFUSED:
                return

    async def _receive(self, link: RoundLink, mine: _Attending) -> None:
        while True:
            try:
                word = await link.receive()
            except ExchangeFailed:
                return
            self._hear(mine, word)

    def _hear(self, mine: _Attending, word: Word) -> None:
        match word.kind:
            case WordKind.READY:
                if not self.leads:
                    mine.words.put_nowait(Word(WordKind.REFUSED, reason=f"{self._peer} does not lead"))
                    return
                if self._round is not None and self._is_in_round(mine.peer) and word.round != self._round.id:
                    return  # it was sent before the member heard of the round
                mine.ready, mine.ready_at = word, self._clock.monotonic()
                self._excluded.discard(mine.peer)  # the round from which it was left out is over by now
                if word.last:
                    self._appliers.setdefault(word.last, set()).add(mine.peer)
                    while len(self._appliers) > MOST_ROUNDS:
                        del self._appliers[next(iter(self._appliers))]
                if word.lost:
                    self._reports[mine.peer] = frozenset(word.lost)
                if self._is_in_round(mine.peer):
                    self._abort(f"{mine.peer} could not finish it")
                self._tell_unfinished(mine.peer, word)
            case WordKind.SCATTERED if self._round is not None and word.round == self._round.id:
                if self._is_in_round(mine.peer) and len(word.checksums) == 1:
                    self._round.scattered[mine.peer] = word
            case _:
                pass  # a word of an earlier round, or of a newer version
        self.look()

    def _tell_unfinished(self, peer: str, word: Word) -> None:
        """Tell the members of the committed round that one of them has given it up: they may wait for its call."""
        committed = self._committed
        if committed is None or word.round != committed.id or word.last == committed.id:
            return
        for member in committed.members:
            if member.peer != peer and (other := self._attending.get(member.peer)) is not None:
                other.words.put_nowait(Word(WordKind.LOST, peer=peer))

    def _is_in_round(self, peer: str) -> bool:
        return self._round is not None and any(member.peer == peer for member in self._round.members)

    def _left(self, peer: str, *, silent: bool = False) -> None:
        """Take in that a member's stream has ended."""
        self._gone.add(peer)
        self._reports.pop(peer, None)
        if self._is_in_round(peer):
            self._abort(f"{peer} is gone")
        for other in self._attending.values():
            other.words.put_nowait(Word(WordKind.LOST, peer=peer))
        if not silent:
            self.look()

    def _end(self, peer: str) -> None:
        """End a member's stream."""
        if (old := self._attending.pop(peer, None)) is not None:
            old.words.put_nowait(None)
            if self._is_in_round(peer):
                self._abort(f"{peer} attends anew")

    def rest(self) -> None:
        """Lead no more: all streams end, and their members look for another leader."""
        self.leads = False
        self._round = None
        for peer in list(self._attending):
            self._end(peer)
        self._seen_at.clear()
        self._gone.clear()
        self._excluded.clear()
        self._reports.clear()

    # ── decisions ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def watch(self) -> None:
        """Decide again now and then, for ever: the view changes, and times pass."""
        while True:
            await self._clock.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Decide, and tell the members."""
        if not self.leads:
            return
        self._drop_silent()
        if self._round is not None:
            self._look_at_round(self._round)
            return
        self._drop_unreachable()
        decision = formation(self._situation())
        self.reason = decision.reason
        if decision.members:
            self._form(decision)
        elif decision.confirms:
            self._confirm()

    def _drop_silent(self) -> None:
        """End the streams of members that have vanished from the view and say nothing: their machines are silent."""
        training = self._training()
        for peer, mine in list(self._attending.items()):
            was, mine.in_view = mine.in_view, peer in training
            if was and not mine.in_view and mine.ready is None and peer != self._peer:
                self._end(peer)
                self._left(peer, silent=True)

    def _awaited(self) -> list[str]:
        """The peers that train by the view, and have not attended yet, since a short time."""
        now_s, training = self._clock.monotonic(), self._training()
        for peer in [peer for peer in self._seen_at if peer not in training]:
            del self._seen_at[peer]
            self._gone.discard(peer)
        for peer in training:
            self._seen_at.setdefault(peer, now_s)
        avoided = self._avoided()
        return [
            peer
            for peer, seen_at in self._seen_at.items()
            if peer not in self._attending
            and peer != self._peer
            and peer not in self._gone
            and peer not in avoided
            and now_s - seen_at < AWAITED_S
        ]

    def _situation(self) -> Situation:
        now_s, training = self._clock.monotonic(), self._training()
        standings = {
            peer: Standing(mine.ready, peer in training or peer == self._peer)
            for peer, mine in self._attending.items()
        }
        first = min(
            (mine.ready_at for mine in self._attending.values() if mine.ready is not None), default=now_s
        )
        avoided = [peer for peer in self._attending if self._unreached.avoided(peer, now_s)]
        return Situation(
            standings=standings,
            awaited=self._awaited(),
            avoided=[*avoided, *self._excluded],
            waited_s=now_s - first,
            patience_s=self._patience_s,
            start_peers=self._start_peers,
        )

    def _drop_unreachable(self) -> None:
        """Leave out members that others cannot reach."""
        if not self._reports:
            return
        reports = {
            peer: [other for other in lost if other in self._attending]
            for peer, lost in self._reports.items()
            if peer in self._attending
        }
        self._reports.clear()
        for peer in unreachable(reports):
            self._unreached.failed(peer, self._clock.monotonic())
            self._leave_out(peer, Refusal.NONE, f"other members cannot reach {peer}")

    def _leave_out(self, peer: str, refusal: Refusal, reason: str) -> None:
        self._noted(peer, reason)
        if (mine := self._attending.get(peer)) is not None:
            mine.ready = None
            mine.words.put_nowait(Word(WordKind.LEFT_OUT, reason=reason, refusal=refusal))

    def _form(self, decision: Formation) -> None:
        members = tuple(
            Member(peer, address)
            for peer in decision.members
            if (address := self._address_of(peer)) is not None
        )
        if len(members) < 2:
            return
        formed = Word(
            WordKind.FORMED,
            round=f"{self._peer}-r{self._rng.getrandbits(48):012x}",
            members=members,
            last=decision.base,
            everyone=decision.everyone,
            started=decision.started,
            confirmed=self._confirmed(),
            reason=decision.reason,
        )
        self._round, self._committed = _Round(formed.round, members), None
        for peer, mine in self._attending.items():
            if mine.ready is not None and peer not in decision.members:
                self._leave_out(peer, Refusal.NONE, f"{peer} cannot be reached by all members")
        for member in members:
            mine = self._attending[member.peer]
            mine.ready = None
            mine.words.put_nowait(formed)

    def _confirmed(self) -> tuple[str, ...]:
        return tuple(name for name, peers in self._appliers.items() if len(peers) > 1)

    def _confirm(self) -> None:
        """Tell the members that wait for it which rounds two peers have applied."""
        for mine in self._attending.values():
            if mine.ready is not None and mine.ready.wants and mine.ready.last in self._confirmed():
                mine.ready = replace(mine.ready, wants=False)
                mine.words.put_nowait(Word(WordKind.CONFIRMED, confirmed=self._confirmed()))

    def _look_at_round(self, forming: _Round) -> None:
        """Commit a round of which all segments are means, or leave out the members that are wrong."""
        if len(forming.scattered) < len(forming.members):
            return
        words = [forming.scattered[member.peer] for member in forming.members]
        if excluded := judged(words, self._half_limit()):
            for exclusion in excluded:
                self._excluded.add(exclusion.peer)
            self._abort(excluded[0].reason)
            for exclusion in excluded:
                self._leave_out(exclusion.peer, exclusion.refusal, exclusion.reason)
            return
        committed = Word(
            WordKind.COMMITTED,
            round=forming.id,
            checksums=tuple(word.checksums[0] for word in words),
        )
        self._round, self._committed = None, forming
        for member in forming.members:
            self._attending[member.peer].words.put_nowait(committed)

    def _abort(self, reason: str) -> None:
        """End the round that is not committed: nothing of it is applied."""
        if (forming := self._round) is None:
            return
        self._round = None
        for member in forming.members:
            if (mine := self._attending.get(member.peer)) is not None:
                mine.words.put_nowait(Word(WordKind.ABORTED, round=forming.id, reason=reason))
