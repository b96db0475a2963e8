"""When this peer starts an exchange, and with whom; the exchange itself is the gossip room's.

One exchange of its own is in flight at a time. The solver steps on meanwhile and never waits for any of this.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gossip_caffe.clock import Clock
from gossip_caffe.gossip.cadence import Cadence, steered
from gossip_caffe.gossip.exchange import Exchanger, Outcome, OutcomeKind
from gossip_caffe.gossip.message import Message, Refusal
from gossip_caffe.gossip.one_sided import AppliedHalf
from gossip_caffe.gossip.partners import STRATEGIES, Standpoint, Suspects, next_exchange
from gossip_caffe.gossip.transport import Answerer
from gossip_caffe.job.spec import JobSettings
from gossip_caffe.observe.events import Event, EventLog
from gossip_caffe.peer.strategy import SharingFigures, Strategy, Surroundings
from gossip_caffe.solver.board import WeightBoard

SHORTEST_LOOK_S = 0.002
LONGEST_LOOK_S = 0.25
IDLE_PAUSE_S = 0.1
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 0.8
URGENT_LOOK_S = 0.02
"""After an urgent exchange: what it settled may show only then."""


@dataclass(frozen=True, slots=True)
class Pause:
    """How long to leave others in peace, and why."""

    seconds: float
    reason: str


def pause_after(kind: OutcomeKind | None, *, in_vain: int, urgent: bool, draw: float) -> Pause:
    """The pause after an exchange; None: there was no partner.

    ``in_vain``: how many offers in a row, with this one, came to nothing; ``draw``: a random number from 0 to 1, so
    that two urgent peers that offer to each other do not do so in step.
    """
    if kind is None:
        return Pause(IDLE_PAUSE_S, "nobody to ask")
    if kind is OutcomeKind.APPLIED:
        return Pause(URGENT_LOOK_S if urgent else 0.0, "it was applied")
    if not urgent:
        return Pause(IDLE_PAUSE_S, f"the offer was {kind.value}; the next is due some iterations on")
    longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(in_vain - 1, 10))
    return Pause(longest_s * (1 + draw) / 2, f"{in_vain} offers in a row came to nothing")


def until_due_s(iterations_left: int, step_s: float) -> float:
    """How long to sleep before looking again, when an exchange is due in so many iterations of ``step_s``."""
    return min(LONGEST_LOOK_S, max(SHORTEST_LOOK_S, 0.5 * iterations_left * step_s))


class AnswersLogged:
    """Writes down how this peer answers offers, so that a history can pair both sides of an exchange by its id."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def applied(self, half: AppliedHalf) -> None:
        """Its half is applied."""
        self._log.emit(
            Event.EXCHANGED,
            exchange=half.exchange_id,
            partner=half.partner,
            side="answered",
            outcome=OutcomeKind.APPLIED.value,
            distance=half.distance,
            half_sum=half.total,
            half_norm=half.norm,
        )

    def alone(self, half: AppliedHalf) -> None:
        """The other side has not applied its own."""
        self._log.emit(
            Event.HALF_APPLIED,
            exchange=half.exchange_id,
            partner=half.partner,
            half_sum=half.total,
            half_norm=half.norm,
        )

    def refused(self, offer: Message, refusal: Refusal, reason: str) -> None:
        """Nothing is applied."""
        self._log.emit(
            Event.EXCHANGED,
            exchange=offer.exchange_id,
            partner=offer.peer,
            side="answered",
            outcome=OutcomeKind.REFUSED.value,
            refusal=refusal.name,
            reason=reason,
        )


class Exchanging:
    """The pairwise strategy: the cadence of one peer's own exchanges, and its answers to others'.

    ``own`` is this peer's name and zone; ``partners`` gives the living partners (peer → address), ``zones`` where
    each of them is; ``shared`` is called with the outcome of each exchange that both sides applied; ``urgent`` says
    that learning waits to leave the peer although no step comes any more.
    """

    def __init__(
        self,
        *,
        exchanger: Exchanger,
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
    ) -> None:
        self._exchanger = exchanger
        self._board = board
        self._settings = settings
        self._own = own
        self._partners = partners
        self._zones = zones
        self._choose = STRATEGIES[settings.partners]
        self._turn = self._in_vain = 0
        self._shared = shared
        self._urgent = urgent
        self._clock = clock
        self._rng = rng
        self._log = log
        self._suspects = Suspects()
        self._cadence = Cadence(settings.exchange_every_iterations, "as the job begins")
        exchanger.watch(AnswersLogged(log))

    @property
    def answerer(self) -> Answerer:
        """The exchanger."""
        return self._exchanger

    @property
    def figures(self) -> SharingFigures:
        """As of now."""
        outcomes, one_sided = self._exchanger.outcomes, self._exchanger.one_sided
        return SharingFigures(
            applied=outcomes[OutcomeKind.APPLIED],
            failed=outcomes[OutcomeKind.FAILED] + outcomes[OutcomeKind.REJECTED],
            half_applied=one_sided.count,
            mass_error=one_sided.mass_error,
            distance=self._exchanger.mean_distance,
        )

    def accept(self) -> None:
        """Answer offers from now on."""
        self._exchanger.accepting = None

    def refuse(self, refusal: Refusal) -> None:
        """Refuse offers from now on."""
        self._exchanger.accepting = refusal

    async def run(self) -> None:
        """Exchange whenever it is due, for ever."""
        due = self._next_due()
        while True:
            self._board.pump()
            left = due - self._board.iteration
            if left > 0 and not self._urgent():
                await self._clock.sleep(until_due_s(left, self._board.step_s))
                continue
            outcome = await self.exchange()
            due = self._next_due()
            await self.pause(outcome, urgent=left > 0)

    async def pause(self, outcome: Outcome | None, *, urgent: bool) -> None:
        """Leave the others in peace after an exchange; ``urgent``: it was not due, but learning waits to leave."""
        kind = None if outcome is None else outcome.kind
        self._in_vain = 0 if kind is OutcomeKind.APPLIED else self._in_vain + 1
        pause = pause_after(kind, in_vain=self._in_vain, urgent=urgent, draw=self._rng.random())
        if pause.seconds:
            await self._clock.sleep(pause.seconds)

    async def exchange(self) -> Outcome | None:
        """One exchange with the partner whose turn it is, now; None when there is no partner to be had."""
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
        exchange_id = self._exchanger.new_id()
        self._log.emit(Event.OFFERED, exchange=exchange_id, partner=choice.partner, why=choice.reason)
        outcome = await self._exchanger.offer_to(choice.partner, partners[choice.partner], exchange_id)
        if outcome.kind in {OutcomeKind.FAILED, OutcomeKind.REJECTED}:
            self._suspects.failed(choice.partner, self._clock.monotonic())
        else:
            self._suspects.succeeded(choice.partner)
        self._log.emit(
            Event.EXCHANGED,
            exchange=outcome.exchange_id,
            partner=outcome.partner,
            side="offered",
            outcome=outcome.kind.value,
            distance=outcome.distance,
            reason=outcome.reason,
            **_applied_half(outcome),
        )
        if outcome.kind is OutcomeKind.APPLIED:
            self._shared(outcome)
            if self._settings.cadence == "auto":
                distance, held = self._exchanger.mean_distance, self._settings.cadence_distance
                self._cadence = steered(self._cadence, distance, held)
        return outcome

    def _next_due(self) -> int:
        return next_exchange(
            self._board.iteration, self._cadence.every, self._settings.exchange_jitter, self._rng
        )


def _applied_half(outcome: Outcome) -> dict[str, object]:
    """What is written down of an exchange that was applied: the half, and how many batches the others know now."""
    if outcome.kind is not OutcomeKind.APPLIED:
        return {}
    return {
        "half_sum": outcome.half_sum,
        "half_norm": outcome.half_norm,
        "batches": outcome.snapshot.batches,
    }


def pairwise(around: Surroundings) -> Strategy:
    """The strategy of this product: two peers average their weights, and everybody mixes with everybody in time."""
    exchanger = Exchanger(
        peer=around.peer,
        job=around.job,
        fingerprint=around.fingerprint,
        codec=around.settings.codec,
        weights=around.board,
        transport=around.transport,
        clock=around.clock,
        rng=around.rng,
        offload=around.offload,
        blobs=around.blobs,
    )
    return Exchanging(
        exchanger=exchanger,
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
    )
