"""The synchronous strategy: every few iterations all peers that train go to the mean of their weights.

The solver waits at a gate between two steps, until its peer has applied the round's mean (docs/internals/protocol.md).
This file decides when this peer is ready and for which leader, and applies a mean whole or not at all. The rounds are
formed, and the weights moved, by ``gossip/rounds``.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.background import DetachedTasks, within
from gossip_caffe.errors import ExchangeFailed, GossipCaffeError
from gossip_caffe.gossip.averaging.average import HalfStats
from gossip_caffe.gossip.averaging.bound import UNMEASURED, Reach
from gossip_caffe.gossip.codecs.message import Refusal
from gossip_caffe.gossip.policy.partners import AvoidedPartners
from gossip_caffe.gossip.protocol.local_peer import LocalPeer
from gossip_caffe.gossip.protocol.outcome import Outcome, OutcomeKind
from gossip_caffe.gossip.protocol.transport import Answerer
from gossip_caffe.gossip.rounds.attempt import Attempt
from gossip_caffe.gossip.rounds.attending import Attendance
from gossip_caffe.gossip.rounds.forming import contributes, leader_of
from gossip_caffe.gossip.rounds.leading import Leading
from gossip_caffe.gossip.rounds.local_link import LocalLink
from gossip_caffe.gossip.rounds.words import RoundCarrier, RoundLink, Word, WordKind, carrier_of
from gossip_caffe.observe.log.events import Event, rounded
from gossip_caffe.peer.core.complaints import Complaints
from gossip_caffe.peer.core.strategy import SharingFigures, Strategy, StrategyContext
from gossip_caffe.peer.sharing.answers_logged import SUM_DIGITS
from gossip_caffe.peer.sharing.round_answers import RoundAnswers
from gossip_caffe.peer.sharing.round_gate import LONGEST_LOOK_S, RoundGate
from gossip_caffe.solver.board import SnapshotInfo

Flat = NDArray[np.float32]

REST_S = 0.1
ALONE_LOOK_S = 0.02
LEADERLESS_S = 5.0
"""A peer that could attend no leader for so long makes its next steps without a round."""
SHARE_S = 5.0
"""The longest time of one call of ``exchange``."""


class SynchronousStrategy:
    """The rounds of one peer: as a member, and as the leader when it has the lowest name."""

    def __init__(self, around: StrategyContext) -> None:
        settings = around.settings
        self._around = around
        self._board = around.board
        self._clock = around.clock
        self._log = around.log
        self._peer = LocalPeer(
            name=around.peer,
            job=around.job,
            fingerprint=around.fingerprint,
            weights=around.board,
            clock=around.clock,
            rng=around.rng,
            offload=around.offload,
            blobs=around.blobs,
            half_limit=settings.half_limit,
            warm=around.warm,
        )
        self._answers = RoundAnswers(self._peer, self._be_attended)
        self._avoided = AvoidedPartners()
        self._complaints = Complaints(around.say, around.clock)
        self._leading = Leading(
            peer=around.peer,
            job=around.job,
            fingerprint=around.fingerprint,
            address_of=self._address_of,
            training=self._training,
            half_limit=lambda: settings.half_limit * (3.0 if self._peer.bound.warming else 1.0),
            avoided=self._avoided_now,
            noted=self._note_left_out,
            patience_s=settings.sync_wait_s,
            start_peers=settings.sync_start_peers,
            clock=around.clock,
            rng=around.rng,
        )
        self._addresses: dict[str, str] = {}
        self._at: Attendance | None = None
        self._rows: Flat | None = None
        self._rests = True
        started = settings.sync_start_peers <= 1
        self._gate = RoundGate(self._board, settings.sync_every_iterations, started=started)
        self._last = ""
        self._last_iteration = self._board.iteration
        self._may_lead = False
        self._tasks = DetachedTasks()
        self._pending: Outcome | None = None
        """The newest round that this peer has applied, while no other is known to have applied it."""
        self._lost: tuple[str, ...] = ()
        self._one_at_a_time = asyncio.Lock()
        self._leaderless_since: float | None = None
        self._refusers = 0
        self.outcomes: Counter[str] = Counter()
        self._gate.close()

    # ── Strategy ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def answerer(self) -> Answerer:
        """The answering side of this peer's rounds."""
        return self._answers

    @property
    def figures(self) -> SharingFigures:
        """The present figures: rounds instead of exchanges."""
        return SharingFigures(
            applied=self.outcomes["applied"],
            failed=self.outcomes["failed"],
            half_applied=0,
            mass_error=0.0,
            distance=self._peer.mean_distance,
        )

    def accept(self) -> None:
        """Take part in rounds from now on."""
        self._peer.accepting = None
        self._rests = False

    def refuse(self, refusal: Refusal) -> None:
        """Take part in no round from now on, except by a call of ``exchange``."""
        self._peer.accepting = refusal
        self._rests = True
        self._stop()

    async def run(self) -> None:
        """Take part in all rounds, for ever."""
        self._may_lead = True
        try:
            async with within(self._take_part_for_ever(), self._leading.watch()) as tasks:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    if task.done():
                        task.result()
        finally:
            self._may_lead = False
            self._stop()

    async def exchange(self) -> Outcome | None:
        """Take part in one round now, and wait until another peer has applied it; None when there is no partner."""
        self._around.serve(self._answers)
        before = self.outcomes["applied"]
        try:
            async with self._one_at_a_time, self._clock.timeout(SHARE_S):
                while self.outcomes["applied"] == before or (self._pending is not None and not self._rests):
                    if not self._around.partners():
                        return None
                    outcome = await self._turn(at_once=True)
                    if outcome is not None and outcome.kind is not OutcomeKind.APPLIED:
                        return outcome
        except TimeoutError:
            if self.outcomes["applied"] == before:
                return None
        return Outcome(OutcomeKind.APPLIED, self._last, "", self._board.published)

    async def pause(self, outcome: Outcome | None, *, urgent: bool) -> None:
        """Wait a little after a call of ``exchange``."""
        del urgent
        applied = outcome is not None and outcome.kind is OutcomeKind.APPLIED
        await self._clock.sleep(0.02 if applied else REST_S)

    # ── taking part ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _take_part_for_ever(self) -> None:
        while True:
            if self._rests:
                await self._clock.sleep(REST_S)
                continue
            async with self._one_at_a_time:
                await self._turn(at_once=False)

    async def _turn(self, *, at_once: bool) -> Outcome | None:
        """One look: find the leader, get ready, or take part in a round that is formed. Returns how a round ended.

        ``at_once``: this peer is ready now, whatever its solver does.
        """
        at = await self._attended()
        if at is None:
            return None
        if at.formed is not None:
            formed, at.formed = at.formed, None
            return await self._take_part(at, formed)
        if at.left_out is not None:
            word, at.left_out = at.left_out, None
            return await self._go_without(word)
        if not (at_once or self._is_idle()) and (pause_s := self._gate.until_ready_s()) > 0:
            self._gate.close()
            await self._wait(at, pause_s)
            return None
        ready = self._ready(at, at_once=at_once)
        if at.said is None or replace(at.said, lost=()) != replace(ready, lost=()):
            try:
                await at.say(ready)
            except ExchangeFailed as error:
                at.broken = at.broken or error.message
                return None
            self._lost = ()
        await self._wait(at, LONGEST_LOOK_S)
        return None

    def _ready(self, at: Attendance, *, at_once: bool) -> Word:
        return Word(
            WordKind.READY,
            round=at.heard,
            last=self._last,
            stepped=self._stepped,
            wants=self._pending is not None and (at_once or self._is_idle()),
            guest=self._rests,
            started=self._gate.started,
            lost=self._lost,
        )

    @property
    def _stepped(self) -> bool:
        return self._board.iteration > self._last_iteration

    def _is_idle(self) -> bool:
        return self._around.exhausted() or self._around.restarting()

    def _step_without(self) -> None:
        """Let the solver make the iterations of another round: this one takes place without this peer."""
        if self._may_lead and not self._rests and self._gate.started:
            self._gate.begin_round_from(self._board.iteration)
            self._gate.close()

    async def _attended(self) -> Attendance | None:
        """The stream to the present leader; None if this peer is alone, or cannot attend a leader now."""
        partners = self._around.partners()
        self._addresses.update(partners)
        now_s = self._clock.monotonic()
        trains = self._may_lead and not self._rests
        choice = leader_of(self._around.peer, trains=trains, partners=partners, avoided=self._avoided_now())
        at = self._at
        if at is not None and (at.broken or at.leader != choice.leader):
            self._detach(at, failed=bool(at.broken) and at.leader != self._around.peer)
            at = None
        if choice.leader == self._around.peer and not self._leading.company:
            self._be_alone()
            await self._clock.sleep(ALONE_LOOK_S)
            return None
        if at is None and choice.leader:
            at = await self._attend(choice.leader)
        if at is None:
            if self._leaderless_since is None:
                self._leaderless_since = now_s
            elif now_s - self._leaderless_since > LEADERLESS_S and self._gate.started:
                self._leaderless_since = now_s
                self._step_without()
            await self._clock.sleep(LONGEST_LOOK_S)
            return None
        self._leaderless_since = None
        return at

    def _be_alone(self) -> None:
        if self._at is not None:
            self._detach(self._at, failed=False)
        self._gate.open()

    async def _attend(self, leader: str) -> Attendance | None:
        """Begin a stream to a leader; None if that fails."""
        link: RoundLink
        if leader == self._around.peer:
            self._leading.leads = True
            link, other = LocalLink.pair()
            self._tasks.begin(self._leading.attend(other), "the leader's own stream")
        else:
            self._leading.rest()
            try:
                link = await self._carrier.attend(self._addresses[leader])
            except ExchangeFailed as error:
                self._avoided.failed(leader, self._clock.monotonic())
                self._around.contact.failed(leader, self._addresses[leader], error.message)
                return None
        at = self._at = Attendance(leader, link, self._confirm)
        self._lost = ()
        try:
            await at.say(
                Word(
                    WordKind.ATTEND,
                    peer=self._around.peer,
                    job=self._around.job,
                    fingerprint=self._around.fingerprint,
                )
            )
        except ExchangeFailed as error:
            at.broken = at.broken or error.message
            self._detach(at, failed=True)
            return None
        return at

    @property
    def _carrier(self) -> RoundCarrier:
        if (carrier := carrier_of(self._around.transport)) is None:
            raise GossipCaffeError("this transport carries no rounds", remedy="report this defect")
        return carrier

    def _detach(self, at: Attendance, *, failed: bool) -> None:
        at.close()
        if self._at is at:
            self._at = None
        if failed and not at.refused:
            self._avoided.failed(at.leader, self._clock.monotonic())
        if at.leader == self._around.peer:
            self._leading.rest()

    def _stop(self) -> None:
        if self._at is not None:
            self._detach(self._at, failed=False)
        self._leading.rest()
        self._gate.remove()

    async def _wait(self, at: Attendance, seconds: float) -> None:
        """Wait until the leader says anything, at most so many seconds."""
        async with within(at.news(), self._clock.sleep(seconds)) as waits:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)

    async def _go_without(self, word: Word) -> Outcome:
        """Go on without this round: the leader has left this peer out."""
        self.outcomes["left out"] += 1
        self._log.emit(
            Event.ROUND, round="", outcome="left-out", reason=word.reason, refusal=word.refusal.name
        )
        if word.refusal is Refusal.TOO_FAR and (partners := sorted(self._around.partners())):
            self._around.refused(partners[self._refusers % len(partners)])
            self._refusers += 1
        self._step_without()
        await self._clock.sleep(REST_S)
        return Outcome(
            OutcomeKind.REFUSED, "", self._at.leader if self._at else "", self._board.published,
            refusal=word.refusal, reason=word.reason,
        )  # fmt: skip

    # ── one round ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _take_part(self, at: Attendance, formed: Word) -> Outcome:
        """Take part in one round, and apply its mean if all of it came."""
        peer, board = self._peer, self._board
        names = [member.peer for member in formed.members]
        if self._around.peer not in names or names != sorted(set(names)):
            return self._failed(formed, board.published, "the leader formed a round that cannot be")
        generation, guest = peer.generation, self._rests
        weights = peer.buffers.take()
        snapshot = board.snapshot(weights)
        stepped = snapshot.iteration > self._last_iteration
        attempt = Attempt(
            round_id=formed.round,
            members=formed.members,
            peer=peer,
            transport=self._around.transport,
            snapshot=weights,
            counts=contributes(
                guest=guest, stepped=stepped, last=self._last, base=formed.last, everyone=formed.everyone
            ),
            rows=self._rows,
        )
        self._rows = None
        self._answers.begin(attempt)
        at.attempt = attempt
        try:
            half = await self._through(at, attempt)
        except ExchangeFailed as error:
            attempt.end(error.message)
            self._lost = getattr(error, "lost", ())
            return self._failed(formed, snapshot, error.message)
        except BaseException:
            attempt.end(f"{peer.name} has ended")
            raise
        attempt.end(f"{peer.name} has applied it")
        outcome = self._apply(attempt, formed, snapshot, half, generation, guest=guest)
        if attempt.is_quiet:
            self._rows = attempt.room.memory
            peer.buffers.give(weights)
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
            if at.leader != self._around.peer and at.leader not in self._around.partners():
                return f"{at.leader}, which leads, trains no more"
            await self._wait(at, REST_S)

    def _failed(self, formed: Word, snapshot: SnapshotInfo, reason: str) -> Outcome:
        self.outcomes["failed"] += 1
        self._log.emit(Event.ROUND, round=formed.round, outcome="failed", reason=reason)
        return Outcome(OutcomeKind.FAILED, formed.round, "", snapshot, reason=reason)

    def _apply(
        self,
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
            self._complaints.about(
                self._at.leader if self._at else "",
                f"{peer.name}: a round of NAME would move it by {reach.words}",
            )
            return self._failed(formed, snapshot, f"it would move {peer.name} by {reach.words}")
        peer.apply(attempt.room.snapshot, half.distance)
        healed = bool(formed.last) and self._last != formed.last and not guest
        # A step that the solver has made meanwhile is kept, and counts as made since this round.
        self._last, self._last_iteration = formed.round, snapshot.iteration
        self._gate.begin_round_from(snapshot.iteration)
        self._gate.started = self._gate.started or formed.started
        if self._may_lead and not self._rests:
            self._gate.close()
        self.outcomes["applied"] += 1
        self._log.emit(
            Event.ROUND,
            round=formed.round,
            outcome="applied",
            members=len(attempt.members),
            counts=attempt.counts,
            guest=guest,
            healed=healed,
            digest=attempt.digest,
            batches=snapshot.batches,
            step_sum=rounded(2.0 * half.total, SUM_DIGITS),
            step_norm=rounded(2.0 * half.norm),
            distance=rounded(half.distance),
            ratio=rounded(reach.ratio),
            limit=rounded(reach.limit),
        )
        self._around.half_added(self._at.leader if self._at else "", formed.round)
        for member in attempt.names:
            if member != peer.name:
                self._around.contact.answered(member)
                self._avoided.succeeded(member)
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
        self._pending = None if guest else outcome
        return outcome

    def _confirm(self, rounds: tuple[str, ...]) -> None:
        """Take in which rounds two peers have applied: what this peer brought to its newest one is durable."""
        if self._pending is not None and self._pending.exchange_id in rounds:
            outcome, self._pending = self._pending, None
            self._around.shared(outcome)

    # ── the members that attend this peer ─────────────────────────────────────────────────────────────────────────

    async def _be_attended(self, link: RoundLink) -> None:
        """Speak with one member of the rounds that this peer leads."""
        if self._rests:
            try:
                await link.receive()
                await link.send(
                    Word(WordKind.REFUSED, reason=f"{self._around.peer} takes part in no round now")
                )
            except ExchangeFailed:
                pass
            return
        await self._leading.attend(link)

    # ── the view ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _training(self) -> dict[str, str]:
        """The peers that train by the view, with this one."""
        partners = dict(self._around.partners())
        self._addresses.update(partners)
        if self._may_lead and not self._rests:
            partners[self._around.peer] = self._around.address()
        return partners

    def _address_of(self, peer: str) -> str | None:
        if peer == self._around.peer:
            return self._around.address()
        if (address := self._around.address_of(peer)) is not None:
            self._addresses[peer] = address
        return self._addresses.get(peer)

    def _avoided_now(self) -> list[str]:
        now_s = self._clock.monotonic()
        return [peer for peer in self._avoided.until if self._avoided.avoided(peer, now_s)]

    def _note_left_out(self, peer: str, reason: str) -> None:
        self._complaints.about(peer, f"{self._around.peer}: NAME is left out of the round: {reason}")


def synchronous(around: StrategyContext) -> Strategy:
    """Make the synchronous strategy: all peers that train average their weights together, and wait for each other."""
    return cast(Strategy, SynchronousStrategy(around))
