"""One peer's part in the rounds that a leader has formed: it applies a round's mean whole or not at all."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

from gossip_caffe.background import within
from gossip_caffe.clock import Clock
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.averaging.average import HalfStats
from gossip_caffe.gossip.averaging.bound import UNMEASURED, Reach
from gossip_caffe.gossip.protocol.local_peer import LocalPeer
from gossip_caffe.gossip.protocol.outcome import Outcome, OutcomeKind
from gossip_caffe.gossip.rounds.attempt import Attempt
from gossip_caffe.gossip.rounds.attending import Attendance
from gossip_caffe.gossip.rounds.forming import contributes
from gossip_caffe.gossip.rounds.room import RoundMemory
from gossip_caffe.gossip.rounds.words import Word
from gossip_caffe.observe.log.events import Event, rounded
from gossip_caffe.peer.core.complaints import Complaints
from gossip_caffe.peer.core.strategy import StrategyContext
from gossip_caffe.peer.sharing.answers_logged import SUM_DIGITS
from gossip_caffe.peer.sharing.round_answers import RoundAnswers
from gossip_caffe.peer.sharing.round_gate import RoundGate
from gossip_caffe.peer.sharing.round_view import RoundView
from gossip_caffe.solver.board import SnapshotInfo

REST_S = 0.1


async def wait_for_news(at: Attendance, clock: Clock, seconds: float) -> None:
    """Wait until the leader says anything, at most so many seconds."""
    async with within(at.news(), clock.sleep(seconds)) as waits:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)


class RoundPart:
    """The rounds of one peer, one after another.

    ``last``: the newest round that it has applied, "" before the first. ``outcomes``: the number of rounds by their
    end. ``pending``: the outcome of the newest round, while no other peer is known to have applied it. ``lost``: the
    members that this peer could not trade with in the newest round.
    """

    def __init__(
        self,
        around: StrategyContext,
        peer: LocalPeer,
        view: RoundView,
        answers: RoundAnswers,
        gate: RoundGate,
        complaints: Complaints,
    ) -> None:
        self.last = ""
        self.outcomes: Counter[str] = Counter()
        self.pending: Outcome | None = None
        self.lost: tuple[str, ...] = ()
        self._around = around
        self._peer = peer
        self._view = view
        self._answers = answers
        self._gate = gate
        self._complaints = complaints
        self._memory: RoundMemory | None = None
        self._last_iteration = around.board.iteration

    @property
    def has_stepped(self) -> bool:
        """Whether the solver has made a step since the newest round."""
        return self._around.board.iteration > self._last_iteration

    async def take(self, at: Attendance, formed: Word) -> Outcome:
        """Take part in one round, and apply its mean if all of it came."""
        peer, board = self._peer, self._around.board
        names = [member.peer for member in formed.members]
        if peer.name not in names or names != sorted(set(names)):
            return self._failed(formed, board.published, "the leader formed a round that cannot be")
        generation, guest = peer.generation, self._view.rests
        memory, self._memory = self._memory or RoundMemory(board.exchanged), None
        memory.begin()
        snapshot = board.snapshot(memory.snapshot)
        stepped = snapshot.iteration > self._last_iteration
        attempt = Attempt(
            round_id=formed.round,
            members=formed.members,
            peer=peer,
            transport=self._around.transport,
            memory=memory,
            counts=contributes(
                guest=guest, stepped=stepped, last=self.last, base=formed.last, everyone=formed.everyone
            ),
        )
        self._answers.begin(attempt)
        at.attempt = attempt
        try:
            half = await self._through(at, attempt)
        except ExchangeFailed as error:
            attempt.end(error.message)
            self.lost = getattr(error, "lost", ())
            return self._failed(formed, snapshot, error.message)
        except BaseException:
            attempt.end(f"{peer.name} has ended")
            raise
        attempt.end(f"{peer.name} has applied it")
        outcome = self._applied(at.leader, attempt, formed, snapshot, half, generation, guest=guest)
        if attempt.is_quiet:
            self._memory = memory
        return outcome

    async def _through(self, at: Attendance, attempt: Attempt) -> HalfStats:
        """The end of an attempt. Raises ExchangeFailed when it cannot come to an end any more."""
        async with within(attempt.run(at.say), self._interrupted(at, attempt)) as (work, stop):
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            raise ExchangeFailed(stop.result())

    async def _interrupted(self, at: Attendance, attempt: Attempt) -> str:
        """Wait for anything that makes the attempt impossible; returns what it is."""
        while True:
            if at.broken:
                return f"{at.leader}, which leads, is gone ({at.broken})"
            if at.aborted is not None and at.aborted.round == attempt.round:
                return at.aborted.reason
            for lost in at.lost:
                if attempt.needs(lost):
                    return f"{lost} is gone"
            if at.leader != self._peer.name and at.leader not in self._around.partners():
                return f"{at.leader}, which leads, trains no more"
            await wait_for_news(at, self._around.clock, REST_S)

    def _failed(self, formed: Word, snapshot: SnapshotInfo, reason: str) -> Outcome:
        self.outcomes["failed"] += 1
        self._around.log.emit(Event.ROUND, round=formed.round, outcome="failed", reason=reason)
        return Outcome(OutcomeKind.FAILED, formed.round, "", snapshot, reason=reason)

    def _applied(
        self,
        leader: str,
        attempt: Attempt,
        formed: Word,
        snapshot: SnapshotInfo,
        half: HalfStats,
        generation: int,
        *,
        guest: bool,
    ) -> Outcome:
        """Apply the mean whole, or not at all."""
        peer = self._peer
        reach = Reach(peer.reach(half).ratio) if guest else peer.reach(half)
        if peer.generation != generation:
            return self._failed(formed, snapshot, "this peer has other weights by now")
        if not math.isfinite(half.norm) or reach.too_far:
            self._complaints.about(leader, f"{peer.name}: a round of NAME would move it by {reach.words}")
            return self._failed(formed, snapshot, f"it would move {peer.name} by {reach.words}")
        peer.apply(attempt.room.snapshot, half.distance)
        healed = bool(formed.last) and self.last != formed.last and not guest
        # A step that the solver has made meanwhile is kept, and counts as made since this round.
        self.last, self._last_iteration = formed.round, snapshot.iteration
        self._gate.begin_round_from(snapshot.iteration)
        self._gate.started = self._gate.started or formed.started
        if self._view.trains:
            self._gate.close()
        self.outcomes["applied"] += 1
        self._around.log.emit(
            Event.ROUND,
            round=formed.round,
            outcome="applied",
            members=len(attempt.members),
            counts=attempt.counts,
            guest=guest,
            healed=healed,
            digest=attempt.room.digest,
            batches=snapshot.batches,
            step_sum=rounded(2.0 * half.total, SUM_DIGITS),
            step_norm=rounded(2.0 * half.norm),
            distance=rounded(half.distance),
            ratio=rounded(reach.ratio),
            limit=rounded(reach.limit),
        )
        self._note_members(leader, attempt, formed)
        outcome = Outcome(
            OutcomeKind.APPLIED,
            formed.round,
            "",
            snapshot,
            half.distance,
            half_sum=half.total,
            half_norm=half.norm,
            reach=UNMEASURED,
        )
        self.pending = None if guest else outcome
        return outcome

    def _note_members(self, leader: str, attempt: Attempt, formed: Word) -> None:
        """Take in that all members of a round have answered."""
        self._around.half_added(leader, formed.round)
        for member in attempt.names:
            if member != self._peer.name:
                self._around.contact.answered(member)
                self._view.avoided.succeeded(member)

    def confirm(self, rounds: tuple[str, ...]) -> None:
        """Take in which rounds two peers have applied: what this peer brought to its newest one is durable."""
        if self.pending is not None and self.pending.exchange_id in rounds:
            outcome, self.pending = self.pending, None
            self._around.shared(outcome)
