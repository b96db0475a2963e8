"""The leader of rounds: it hears who is ready, forms the rounds, and commits or aborts each.

Every peer can lead, and the peer with the lowest name does. ``forming`` and ``judging`` make the decisions; this file
keeps what they read, and tells the members. The leader is a member of its own rounds, over a stream to itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from gossip_caffe.clock import Clock
from gossip_caffe.gossip.codecs.message import Refusal
from gossip_caffe.gossip.policy.partners import AvoidedPartners
from gossip_caffe.gossip.rounds.forming import Formation, Situation, Standing, formation, unreachable
from gossip_caffe.gossip.rounds.judging import judged
from gossip_caffe.gossip.rounds.remembered import AppliedRounds, Awaiting
from gossip_caffe.gossip.rounds.streams import Attending, Streams
from gossip_caffe.gossip.rounds.words import Member, RoundLink, Word, WordKind

LOOK_S = 0.05


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
        avoided: Callable[[], Collection[str]],
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
        self._address_of = address_of
        self._training = training
        self._half_limit = half_limit
        self._avoided = avoided
        self._noted = noted
        self._patience_s = patience_s
        self._start_peers = start_peers
        self._clock = clock
        self._rng = rng
        self._streams = Streams(
            peer, job, fingerprint, address_of, heard=self._hear, left=self._left, clock=clock
        )
        self._attending = self._streams.attending
        self._awaiting = Awaiting()
        self._round: _Round | None = None
        self._committed: _Round | None = None
        self._applied = AppliedRounds()
        self._reports: dict[str, frozenset[str]] = {}
        self._unreached = AvoidedPartners()
        self._excluded: set[str] = set()

    @property
    def company(self) -> bool:
        """Whether any other peer attends, or is awaited."""
        return any(peer != self._peer for peer in self._attending) or bool(self._awaited())

    # ── members come, speak and go ────────────────────────────────────────────────────────────────────────────────

    async def attend(self, link: RoundLink) -> None:
        """Speak with one member until its stream ends."""
        await self._streams.attend(link, self._begin)

    def _begin(self, peer: str) -> None:
        """Take in that a member begins to attend, perhaps anew."""
        self._end(peer)
        self._awaiting.came(peer)

    def _hear(self, mine: Attending, word: Word) -> None:
        mine.heard_at = now_s = self._clock.monotonic()
        match word.kind:
            case WordKind.READY:
                if self._round is not None and self._is_in_round(mine.peer) and word.round != self._round.id:
                    return  # it was sent before the member heard of the round
                mine.ready, mine.ready_at = word, now_s
                self._excluded.discard(mine.peer)  # the round from which it was left out is over by now
                if word.last:
                    self._applied.note(word.last, mine.peer)
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
        others = [member.peer for member in committed.members if member.peer != peer]
        self._streams.tell(others, Word(WordKind.LOST, peer=peer))

    def _is_in_round(self, peer: str) -> bool:
        return self._round is not None and any(member.peer == peer for member in self._round.members)

    def _left(self, peer: str, *, silently: bool = False) -> None:
        """Take in that a member's stream has ended."""
        self._awaiting.went(peer)
        self._reports.pop(peer, None)
        if self._is_in_round(peer):
            self._abort(f"{peer} is gone")
        self._streams.tell(self._attending, Word(WordKind.LOST, peer=peer))
        if not silently:
            self.look()

    def _end(self, peer: str) -> None:
        """End a member's stream."""
        if self._streams.end(peer) and self._is_in_round(peer):
            self._abort(f"{peer} attends anew")

    def rest(self) -> None:
        """Lead no more: all streams end, and their members look for another leader."""
        self.leads = False
        self._round = None
        for peer in list(self._attending):
            self._end(peer)
        self._awaiting.clear()
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
            self._streams.refuse_waiting(self._clock.monotonic())
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
        """End the streams of members whose machines are silent."""
        training = {*self._training(), self._peer}
        for peer in self._streams.silent(training, self._clock.monotonic()):
            self._end(peer)
            self._left(peer, silently=True)

    def _awaited(self) -> list[str]:
        """The peers that train by the view, and have not attended yet, since a short time."""
        without = {self._peer, *self._attending, *self._avoided()}
        return self._awaiting.now(self._training(), without, self._clock.monotonic())

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
            confirmed=self._applied.confirmed,
            reason=decision.reason,
        )
        self._round, self._committed = _Round(formed.round, members), None
        for peer, mine in self._attending.items():
            if mine.ready is not None and peer not in decision.members:
                self._leave_out(peer, Refusal.NONE, f"{peer} cannot be reached by all members")
        for member in members:
            mine = self._attending[member.peer]
            mine.ready, mine.heard_at = None, self._clock.monotonic()
            mine.words.put_nowait(formed)

    def _confirm(self) -> None:
        """Tell the members that wait for it which rounds two peers have applied."""
        for mine in self._attending.values():
            if mine.ready is not None and mine.ready.wants and mine.ready.last in self._applied.confirmed:
                mine.ready = replace(mine.ready, wants=False)
                mine.words.put_nowait(Word(WordKind.CONFIRMED, confirmed=self._applied.confirmed))

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
        self._streams.tell((member.peer for member in forming.members), committed)

    def _abort(self, reason: str) -> None:
        """End the round that is not committed: nothing of it is applied."""
        if (forming := self._round) is None:
            return
        self._round = None
        aborted = Word(WordKind.ABORTED, round=forming.id, reason=reason)
        self._streams.tell((member.peer for member in forming.members), aborted)
