"""The synchronous strategy: every few iterations all peers that train go to the mean of their weights.

The solver waits at a gate between two steps, until its peer has applied the round's mean (docs/internals/protocol.md).
This file decides when this peer is ready. The rounds are formed, and the weights moved, by ``gossip/rounds``.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import cast

from gossip_caffe.background import within
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.codecs.message import Refusal
from gossip_caffe.gossip.protocol.local_peer import LocalPeer
from gossip_caffe.gossip.protocol.outcome import Outcome, OutcomeKind
from gossip_caffe.gossip.protocol.transport import Answerer
from gossip_caffe.gossip.rounds.attending import Attendance
from gossip_caffe.gossip.rounds.leading import Leading
from gossip_caffe.gossip.rounds.words import RoundLink, Word, WordKind
from gossip_caffe.observe.log.events import Event
from gossip_caffe.peer.core.complaints import Complaints
from gossip_caffe.peer.core.strategy import SharingFigures, Strategy, StrategyContext
from gossip_caffe.peer.sharing.round_answers import RoundAnswers
from gossip_caffe.peer.sharing.round_attendance import ToTheLeader
from gossip_caffe.peer.sharing.round_gate import LONGEST_LOOK_S, RoundGate
from gossip_caffe.peer.sharing.round_part import REST_S, RoundPart, wait_for_news
from gossip_caffe.peer.sharing.round_view import RoundView

SHARE_S = 5.0
"""The longest time of one call of ``exchange``."""


class SynchronousStrategy:
    """The rounds of one peer: as a member, and as the leader when it has the lowest name."""

    def __init__(self, around: StrategyContext) -> None:
        settings = around.settings
        self._around = around
        self._clock = around.clock
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
        self._complaints = Complaints(around.say, around.clock)
        self._view = RoundView(around)
        self._leading = Leading(
            peer=around.peer,
            job=around.job,
            fingerprint=around.fingerprint,
            address_of=self._view.address_of,
            training=self._view.training,
            half_limit=lambda: settings.half_limit * (3.0 if self._peer.bound.warming else 1.0),
            avoided=self._view.avoided_now,
            noted=self._note_left_out,
            patience_s=settings.sync_wait_s,
            start_peers=settings.sync_start_peers,
            clock=around.clock,
            rng=around.rng,
        )
        self._gate = RoundGate(
            around.board, settings.sync_every_iterations, started=settings.sync_start_peers <= 1
        )
        self._part = RoundPart(around, self._peer, self._view, self._answers, self._gate, self._complaints)
        self._leader = ToTheLeader(
            around,
            self._view,
            self._leading,
            self._gate,
            confirm=self._part.confirm,
            step_without=self._step_without,
        )
        self._newest_at: Attendance | None = None
        self._one_at_a_time = asyncio.Lock()
        self._refusers = 0
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
            applied=self._part.outcomes["applied"],
            failed=self._part.outcomes["failed"],
            half_applied=0,
            mass_error=0.0,
            distance=self._peer.mean_distance,
        )

    def accept(self) -> None:
        """Take part in rounds from now on."""
        self._peer.accepting = None
        self._view.rests = False

    def refuse(self, refusal: Refusal) -> None:
        """Take part in no round from now on, except by a call of ``exchange``."""
        self._peer.accepting = refusal
        self._view.rests = True
        self._stop()

    async def run(self) -> None:
        """Take part in all rounds, for ever."""
        self._view.may_lead = True
        try:
            async with within(self._take_part_for_ever(), self._leading.watch()) as tasks:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    if task.done():
                        task.result()
        finally:
            self._view.may_lead = False
            self._stop()

    async def exchange(self) -> Outcome | None:
        """Take part in one round now, and wait until another peer has applied it; None when there is no partner."""
        self._around.serve(self._answers)
        part = self._part
        before = part.outcomes["applied"]
        try:
            async with self._one_at_a_time, self._clock.timeout(SHARE_S):
                while part.outcomes["applied"] == before or (part.pending and not self._view.rests):
                    if not self._around.partners():
                        return None
                    outcome = await self._turn(at_once=True)
                    if outcome is not None and outcome.kind is not OutcomeKind.APPLIED:
                        return outcome
        except TimeoutError:
            if part.outcomes["applied"] == before:
                return None
        return Outcome(OutcomeKind.APPLIED, part.last, "", self._around.board.published)

    async def pause(self, outcome: Outcome | None, *, urgent: bool) -> None:
        """Wait a little after a call of ``exchange``."""
        del urgent
        applied = outcome is not None and outcome.kind is OutcomeKind.APPLIED
        await self._clock.sleep(0.02 if applied else REST_S)

    # ── taking part ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _take_part_for_ever(self) -> None:
        while True:
            if self._view.rests:
                await self._clock.sleep(REST_S)
                continue
            async with self._one_at_a_time:
                await self._turn(at_once=False)

    async def _turn(self, *, at_once: bool) -> Outcome | None:
        """One look: find the leader, get ready, or take part in a round that is formed. Returns how a round ended.

        ``at_once``: this peer is ready now, whatever its solver does.
        """
        at = await self._leader.attended()
        if at is None:
            return None
        if at is not self._newest_at:
            self._newest_at, self._part.lost = at, ()
        if at.formed is not None:
            formed, at.formed = at.formed, None
            return await self._part.take(at, formed)
        if at.left_out is not None:
            word, at.left_out = at.left_out, None
            return await self._go_without(word)
        if not (at_once or self._is_idle()) and (pause_s := self._gate.until_ready_s()) > 0:
            self._gate.close()
            await wait_for_news(at, self._clock, pause_s)
            return None
        ready = self._ready(at, at_once=at_once)
        if at.said is None or replace(at.said, lost=()) != replace(ready, lost=()):
            try:
                await at.say(ready)
            except ExchangeFailed as error:
                at.broken = at.broken or error.message
                return None
            self._part.lost = ()
        await wait_for_news(at, self._clock, LONGEST_LOOK_S)
        return None

    def _ready(self, at: Attendance, *, at_once: bool) -> Word:
        return Word(
            WordKind.READY,
            round=at.heard,
            last=self._part.last,
            stepped=self._part.has_stepped,
            wants=self._part.pending is not None and (at_once or self._is_idle()),
            guest=self._view.rests,
            started=self._gate.started,
            lost=self._part.lost,
        )

    def _is_idle(self) -> bool:
        return self._around.exhausted() or self._around.restarting()

    def _step_without(self) -> None:
        """Let the solver make the iterations of another round: this one takes place without this peer."""
        if self._view.trains and self._gate.started:
            self._gate.begin_round_from(self._around.board.iteration)
            self._gate.close()

    def _stop(self) -> None:
        self._leader.stop()
        self._gate.remove()

    async def _go_without(self, word: Word) -> Outcome:
        """Go on without this round: the leader has left this peer out."""
        self._part.outcomes["left out"] += 1
        self._around.log.emit(
            Event.ROUND, round="", outcome="left-out", reason=word.reason, refusal=word.refusal.name
        )
        if word.refusal is Refusal.TOO_FAR and (partners := sorted(self._around.partners())):
            self._around.refused(partners[self._refusers % len(partners)])
            self._refusers += 1
        self._step_without()
        await self._clock.sleep(REST_S)
        return Outcome(
            OutcomeKind.REFUSED,
            "",
            self._leader.leader,
            self._around.board.published,
            refusal=word.refusal,
            reason=word.reason,
        )

    # ── the members that attend this peer ─────────────────────────────────────────────────────────────────────────

    async def _be_attended(self, link: RoundLink) -> None:
        """Speak with one member of the rounds that this peer leads."""
        if not self._view.rests:
            await self._leading.attend(link)
            return
        try:
            await link.receive()
            await link.send(Word(WordKind.REFUSED, reason=f"{self._around.peer} takes part in no round now"))
        except ExchangeFailed:
            pass

    def _note_left_out(self, peer: str, reason: str) -> None:
        self._complaints.about(peer, f"{self._around.peer}: NAME is left out of the round: {reason}")


def synchronous(around: StrategyContext) -> Strategy:
    """Make the synchronous strategy: all peers that train average their weights together, and wait for each other."""
    return cast(Strategy, SynchronousStrategy(around))
