"""The pairwise strategy: the time and the partner of this peer's exchanges. ``gossip`` makes each exchange.

At most one exchange that this peer has offered is in flight. The solver goes on stepping and never waits for it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

from gossip_caffe.clock import Clock
from gossip_caffe.gossip.codecs.message import Refusal
from gossip_caffe.gossip.policy.cadence import Outlook
from gossip_caffe.gossip.policy.contact import Contact, NoContact
from gossip_caffe.gossip.policy.partners import PARTNER_POLICIES, AvoidedPartners, Standpoint, next_exchange
from gossip_caffe.gossip.protocol.answering import Answering
from gossip_caffe.gossip.protocol.local_peer import LocalPeer
from gossip_caffe.gossip.protocol.offering import Offering
from gossip_caffe.gossip.protocol.outcome import Outcome, OutcomeKind
from gossip_caffe.gossip.protocol.transport import Answerer
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.observe.log.events import Event, EventLog, rounded
from gossip_caffe.peer.core.complaints import Complaints
from gossip_caffe.peer.core.strategy import SharingFigures, Strategy, StrategyContext, say_nothing
from gossip_caffe.peer.sharing.answers_logged import AnswersLogged, half_of
from gossip_caffe.peer.sharing.own_cadence import OwnCadence
from gossip_caffe.solver.board import WeightBoard

SHORTEST_LOOK_S = 0.002
LONGEST_LOOK_S = 0.25
IDLE_PAUSE_S = 0.1
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 0.8
URGENT_LOOK_S = 0.02
"""Seconds between an urgent exchange and the next look: the batches that it settled may show only then."""


@dataclass(frozen=True, slots=True)
class Pause:
    """The seconds to wait before the next exchange, and the reason."""

    seconds: float
    reason: str


def pause_after(kind: OutcomeKind | None, *, in_vain: int, urgent: bool, draw: float) -> Pause:
    """The pause after an exchange that ended by ``kind``; None: there was no partner.

    ``in_vain``: the number of offers in a row, this one included, that were not applied. ``draw``: a random number
    from 0 to 1: without it two urgent peers could offer to each other in step, again and again.
    """
    if kind is None:
        return Pause(IDLE_PAUSE_S, "there is no partner")
    if kind is OutcomeKind.APPLIED:
        return Pause(URGENT_LOOK_S if urgent else 0.0, "the exchange was applied")
    if not urgent:
        return Pause(IDLE_PAUSE_S, f"the offer was {kind.value}; the next is due some iterations on")
    longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(in_vain - 1, 10))
    return Pause(longest_s * (1 + draw) / 2, f"{in_vain} offers in a row were not applied")


def until_due_s(iterations_left: int, step_s: float) -> float:
    """Seconds to sleep before the next look, when an exchange is due in so many iterations of ``step_s`` seconds."""
    return min(LONGEST_LOOK_S, max(SHORTEST_LOOK_S, 0.5 * iterations_left * step_s))


class PairwiseStrategy:
    """The pairwise strategy: the cadence of one peer's own exchanges, and its answers to other peers' offers.

    ``peer``, ``offering`` and ``answering`` are this peer in its exchanges. The other arguments are those of
    ``StrategyContext``. ``members``: the partners, unless it is given.
    """

    def __init__(
        self,
        *,
        peer: LocalPeer,
        offering: Offering,
        answering: Answering,
        board: WeightBoard,
        settings: JobSettings,
        own: Callable[[], tuple[str, str]],
        partners: Callable[[], Mapping[str, str]],
        zones: Callable[[], Mapping[str, str]],
        shared: Callable[[Outcome], None],
        urgent: Callable[[], bool],
        clock: Clock,
        rng: random.Random,
        log: EventLog,
        members: Callable[[], Container[str]] | None = None,
        say: Callable[[str], None] = say_nothing,
        contact: Contact | None = None,
        half_added: Callable[[str, str], None] = lambda partner, exchange_id: None,  # noqa: ARG005
        refused: Callable[[str], None] = say_nothing,
        outlook: Callable[[], Outlook | None] = lambda: None,
    ) -> None:
        self._peer = peer
        self._offering = offering
        self._answering = answering
        self._board = board
        self._settings = settings
        self._own = own
        self._partners = partners
        self._zones = zones
        self._members = members or partners
        self._choose = PARTNER_POLICIES[settings.partners]
        self._turn = self._in_vain = 0
        self._shared = shared
        self._urgent = urgent
        self._clock = clock
        self._rng = rng
        self._log = log
        self._suspects = AvoidedPartners()
        self._contact = contact or NoContact()
        self._cadence = OwnCadence(settings, outlook)
        self._complaints = Complaints(say, clock)
        self._half_added = half_added
        self._refused = refused
        self._one_at_a_time = asyncio.Lock()
        self._rests = False
        answering.watcher = AnswersLogged(log, self._complaints, own()[0], half_added)

    @property
    def answerer(self) -> Answerer:
        """The answering side of this peer's exchanges."""
        return self._answering

    @property
    def figures(self) -> SharingFigures:
        """The present figures."""
        outcomes, one_sided = self._offering.outcomes, self._answering.one_sided
        return SharingFigures(
            applied=outcomes[OutcomeKind.APPLIED],
            failed=outcomes[OutcomeKind.FAILED] + outcomes[OutcomeKind.REJECTED],
            half_applied=one_sided.count,
            mass_error=one_sided.mass_error + self._peer.clip.mass_error,
            distance=self._peer.mean_distance,
        )

    def accept(self) -> None:
        """Answer offers, and make them when they are due, from now on."""
        self._peer.accepting = None
        self._rests = False

    def refuse(self, refusal: Refusal) -> None:
        """Refuse offers from now on, and make none except by a call of ``exchange``."""
        self._peer.accepting = refusal
        self._rests = True

    async def run(self) -> None:
        """Exchange whenever an exchange is due, for ever."""
        due = self._next_due()
        while True:
            if self._rests:
                await self._clock.sleep(IDLE_PAUSE_S)
                continue
            self._board.pump()
            left = due - self._board.iteration
            if left > 0 and not self._urgent():
                await self._clock.sleep(until_due_s(left, self._board.step_s))
                continue
            outcome = await self.exchange()
            due = self._next_due()
            await self.pause(outcome, urgent=left > 0)

    async def pause(self, outcome: Outcome | None, *, urgent: bool) -> None:
        """Wait after an exchange, as long as its outcome asks for.

        ``urgent``: the exchange was made before it was due, because trained batches wait to be shared.
        """
        kind = None if outcome is None else outcome.kind
        self._in_vain = 0 if kind is OutcomeKind.APPLIED else self._in_vain + 1
        pause = pause_after(kind, in_vain=self._in_vain, urgent=urgent, draw=self._rng.random())
        if pause.seconds:
            await self._clock.sleep(pause.seconds)

    async def exchange(self) -> Outcome | None:
        """Exchange with the next partner, once an exchange of this peer that is in flight has ended.

        Returns None when there is no partner.
        """
        async with self._one_at_a_time:
            return await self._exchange()

    async def _exchange(self) -> Outcome | None:
        self._forget_departed()
        partners = self._partners()
        peer, zone = self._own()
        choice = self._choose(
            Standpoint(peer, zone, self._turn),
            self._zones(),
            self._suspects,
            self._clock.monotonic(),
            self._rng,
        )
        if choice.partner is None:
            return None
        self._turn += 1
        exchange_id = self._offering.new_id()
        self._log.emit(Event.OFFERED, exchange=exchange_id, partner=choice.partner, why=choice.reason)
        address = partners[choice.partner]  # read now: the partner may leave before it has answered
        outcome = await self._offering.offer_to(choice.partner, address, exchange_id)
        if outcome.kind in {OutcomeKind.FAILED, OutcomeKind.REJECTED}:
            self._suspects.failed(choice.partner, self._clock.monotonic())
        else:
            self._suspects.succeeded(choice.partner)
        if outcome.kind is OutcomeKind.FAILED:
            self._contact.failed(choice.partner, address, outcome.reason)
        else:
            self._contact.answered(choice.partner)
        self._log.emit(
            Event.EXCHANGED,
            exchange=outcome.exchange_id,
            partner=outcome.partner,
            side="offered",
            outcome=outcome.kind.value,
            distance=rounded(outcome.distance),
            reason=outcome.reason,
            **half_of(outcome),
            **self._steps_since(outcome),
        )
        if outcome.refusal is Refusal.TOO_FAR:
            self._complain(outcome)
            if outcome.kind is OutcomeKind.REFUSED:
                self._refused(outcome.partner)
        if outcome.kind is OutcomeKind.APPLIED:
            self._half_added(outcome.partner, outcome.exchange_id)
            self._shared(outcome)
            self._cadence.steer(self._peer.mean_distance)
        return outcome

    def _steps_since(self, outcome: Outcome) -> dict[str, object]:
        """The iterations that the solver has made between the offered snapshot and the end of an applied exchange."""
        if outcome.kind is not OutcomeKind.APPLIED:
            return {}
        return {"steps": max(0, self._board.iteration - outcome.snapshot.iteration)}

    def _forget_departed(self) -> None:
        """Forget the partners whose record is gone, also one to which an offer is in flight."""
        living = self._members()
        self._suspects.forget(living)
        self._peer.clip.forget(living)
        if self._peer.rates is not None:
            self._peer.rates.forget(living)
        self._offering.forget(living)

    def _complain(self, outcome: Outcome) -> None:
        """Name a partner that is too far away from this peer, or that finds this peer too far away."""
        peer = self._own()[0]
        if outcome.reach.too_far:
            line = (
                f"{peer}: an answer of NAME would move it by {outcome.reach.words}; nothing was applied here"
            )
        else:
            line = f"{peer}: NAME refused an offer: it finds {peer} too far from itself"
        self._complaints.about(outcome.partner, line)

    def _next_due(self) -> int:
        return next_exchange(
            self._board.iteration, self._cadence.now.every, self._settings.exchange_jitter, self._rng
        )


def pairwise(around: StrategyContext) -> Strategy:
    """Make the default strategy: two peers average their weights, so that all peers mix with all in time."""
    peer = LocalPeer(
        name=around.peer,
        job=around.job,
        fingerprint=around.fingerprint,
        weights=around.board,
        clock=around.clock,
        rng=around.rng,
        offload=around.offload,
        blobs=around.blobs,
        half_limit=around.settings.half_limit,
        half_clip=around.settings.half_clip if around.authenticated else 0.0,
        limits_rate=around.authenticated,
        warm=around.warm,
    )
    return PairwiseStrategy(
        peer=peer,
        offering=Offering(peer, around.transport, around.settings.codec),
        answering=Answering(peer),
        board=around.board,
        settings=around.settings,
        own=around.own,
        partners=around.partners,
        zones=around.zones,
        shared=around.shared,
        urgent=around.urgent,
        clock=around.clock,
        rng=around.rng,
        log=around.log,
        members=around.members,
        say=around.say,
        contact=around.contact,
        half_added=around.half_added,
        refused=around.refused,
        outlook=around.outlook,
    )
