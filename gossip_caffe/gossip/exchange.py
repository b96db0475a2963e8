"""The exchange: pairwise, symmetric, whole or not at all, and never waited for by a step (docs/protocol.md).

This is the protocol without a network: it offers through a ``Transport`` and answers as an ``Answerer``. The weights
are asked and changed in the event loop's thread only; arithmetic on a large model goes through ``offload``, on vectors
that belong to one exchange. So whatever may have changed during an ``await`` is looked at again before a half is added.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.clock import Clock
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.answers import GivenAnswers
from gossip_caffe.gossip.average import Halved
from gossip_caffe.gossip.buffers import Buffers
from gossip_caffe.gossip.codec import CODECS, codec_named, largest_payload_bytes
from gossip_caffe.gossip.crossing import Crossing, OwnOffer
from gossip_caffe.gossip.deadline import Deadline
from gossip_caffe.gossip.health import running_mean
from gossip_caffe.gossip.message import FramesCorrupt, Message, Refusal, Transport, Undelivered
from gossip_caffe.gossip.one_sided import AppliedHalf, GivenUp, OneSided
from gossip_caffe.gossip.outcome import Outcome, OutcomeKind, kind_of
from gossip_caffe.gossip.payload import Reason, Sent, answered, decoded, encoded, halved, objection_to_layout
from gossip_caffe.gossip.seams import Offload, Watcher, Weights
from gossip_caffe.solver.board import SnapshotInfo

__all__ = ["Exchanger", "Outcome", "OutcomeKind", "Weights"]

Flat = NDArray[np.float32]
P = ParamSpec("P")
T = TypeVar("T")
Ending = tuple[OutcomeKind, Refusal, str]

MOST_IN_FLIGHT = 4
"""Offers that a peer receives and answers at one time; further ones are refused as OVERLOADED."""
OFFLOAD_FROM_VALUES = 1_000_000
"""Models from this many values on are computed with through ``offload``."""


class Exchanger:
    """One peer's side of all its exchanges.

    ``accepting`` is None while offers are answered, else the refusal that they get. ``mean_distance`` is the running
    consensus distance, None before the first exchange; ``outcomes`` counts offered exchanges by kind, ``answers``
    answered ones by refusal. ``unanswered`` counts own offers after which perhaps only the partner changed its
    weights; ``one_sided`` has the halves that only this peer applied, exactly, once their offerers have said so.
    ``blobs``: the sizes of the exchanged blobs. ``watcher`` is told what was answered.
    """

    def __init__(
        self,
        *,
        peer: str,
        job: str,
        fingerprint: str,
        codec: str,
        weights: Weights,
        transport: Transport,
        clock: Clock,
        rng: random.Random,
        offload: Offload | None = None,
        blobs: Sequence[int] = (),
    ) -> None:
        self.accepting: Refusal | None = Refusal.NOT_TRAINING
        self.mean_distance: float | None = None
        self.outcomes: Counter[OutcomeKind] = Counter()
        self.answers: Counter[Refusal] = Counter()
        self.unanswered = 0
        self.one_sided = OneSided()
        self.watcher: Watcher | None = None
        self._given_up = GivenUp()
        self._peer = peer
        self._job = job
        self._fingerprint = fingerprint
        self._codec = codec
        self._weights = weights
        self._transport = transport
        self._clock = clock
        self._rng = rng
        self._offload = offload
        self._blobs = tuple(blobs)
        self._crossing = Crossing(peer)
        self._given = GivenAnswers()
        self._answering: dict[str, asyncio.Event] = {}
        self._receiving = 0
        self._buffers = Buffers(weights.exchanged)
        self._deadline = Deadline(2 * codec_named(codec).payload_bytes(weights.exchanged))

    @property
    def deadline_s(self) -> float:
        """How long the next offer will wait for its answer."""
        return self._deadline.seconds

    # ── offering ──────────────────────────────────────────────────────────────────────────────────────────────────

    def new_id(self) -> str:
        """An id for the next own offer."""
        return f"{self._peer}-{self._rng.getrandbits(48):012x}"

    async def offer_to(self, partner: str, address: str, exchange_id: str = "") -> Outcome:
        """Exchange with a partner; changes this peer's weights only when the kind is APPLIED.

        One at a time: raises ExchangeFailed, and changes nothing, while another offer of this peer is in flight.
        """
        if self._crossing.own is not None:
            raise ExchangeFailed("an exchange that this peer offered is still in flight")
        own = self._crossing.begin(exchange_id or self.new_id(), partner)
        try:
            mine, theirs = self._buffers.take(), self._buffers.take()
            outcome = await self._offered(own, address, mine, theirs)
            self._buffers.give(mine, theirs)
        except asyncio.CancelledError:
            self.outcomes[OutcomeKind.FAILED] += 1
            self._perhaps_one_sided(own)
            raise
        finally:
            self._crossing.end()
        self.outcomes[outcome.kind] += 1
        return outcome

    async def _offered(self, own: OwnOffer, address: str, mine: Flat, theirs: Flat) -> Outcome:
        snapshot = self._weights.snapshot(mine)
        answered_before = self._crossing.answered_of(own.partner)
        ended: Ending | Halved
        if (
            sent := await self._compute(encoded, self._codec, mine, self._blobs, self._rounding(self._codec))
        ) is None:
            ended = OutcomeKind.REFUSED, Refusal.NON_FINITE, "the own weights hold NaN or Inf"
        elif own.withdrawn:
            ended = OutcomeKind.WITHDRAWN, Refusal.CROSSING, f"{own.partner} offered first"
        else:
            given_up = self._given_up.named_to(own.partner)
            offer = replace(
                self._message(own.exchange_id, snapshot, sent),
                answered=answered_before,
                withdraws=" ".join(given_up),
            )
            answer = await self._answer_of(own, address, offer)
            ended = (
                await self._half_of(own, answer, sent, mine, theirs)
                if isinstance(answer, Message)
                else answer
            )
        if isinstance(ended, Halved):
            self._apply(mine, ended.distance)
            return Outcome(OutcomeKind.APPLIED, own.exchange_id, own.partner, snapshot, ended.distance)
        kind, refusal, reason = ended
        if kind is OutcomeKind.REJECTED:
            self._perhaps_one_sided(own)
        elif kind is OutcomeKind.WITHDRAWN:
            self._given_up.add(own.partner, own.exchange_id)
        return Outcome(kind, own.exchange_id, own.partner, snapshot, 0.0, refusal, reason)

    async def _answer_of(self, own: OwnOffer, address: str, offer: Message) -> Message | Ending:
        """The partner's answer; or how the exchange ended without one."""
        deadline_s, began = self.deadline_s, self._clock.monotonic()
        try:
            answer = await self._transport.exchange(address, offer, deadline_s)
        except FramesCorrupt as error:
            return OutcomeKind.REJECTED, Refusal.CORRUPT_FRAME, error.message
        except ExchangeFailed as error:
            if self._clock.monotonic() - began >= deadline_s:
                self._deadline.passed()
            if not isinstance(error, Undelivered):
                self._perhaps_one_sided(own)
            return OutcomeKind.FAILED, Refusal.NONE, error.message
        self._crossing.note(answer)
        if answer.exchange_id == offer.exchange_id:
            self._given_up.told(own.partner, offer.withdraws.split())
        if answer.refusal is not Refusal.NONE:
            return kind_of(answer.refusal), answer.refusal, answer.reason
        if answer.exchange_id != offer.exchange_id:
            return OutcomeKind.REJECTED, Refusal.CORRUPT_FRAME, f"an answer to {answer.exchange_id}"
        self._deadline.answered(self._clock.monotonic() - began)
        return answer

    async def _half_of(
        self, own: OwnOffer, answer: Message, sent: Sent, mine: Flat, theirs: Flat
    ) -> Halved | Ending:
        """Our half into ``mine``, and its figures; or why it must not be applied."""
        if (problem := await self._compute(decoded, answer, self._fingerprint, theirs)) is not None:
            return OutcomeKind.REJECTED, *problem
        figures = await self._compute(halved, sent, theirs, mine)
        if own.withdrawn:
            # The partner gave its own offer up, which was answered here, and then took this one: one of them is enough.
            return OutcomeKind.WITHDRAWN, Refusal.CROSSING, f"the offer of {own.partner} was applied"
        return figures

    def _perhaps_one_sided(self, own: OwnOffer) -> None:
        self.unanswered += 1
        self._given_up.add(own.partner, own.exchange_id)

    # ── answering ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def receive(
        self, header: Message, payload_bytes: int, read: Callable[[], Awaitable[Message]]
    ) -> Message:
        """Answer an offer of which only the header has come; ``read`` it only when there is no reason to refuse."""
        self._note_given_up(header)
        if (given := self._given.find(header.exchange_id)) is not None:
            return given
        most = largest_payload_bytes(self._weights.exchanged)
        if payload_bytes > most:
            reason = f"{payload_bytes} bytes announced, {most} is the most"
            return self._refuse(header, Refusal.CORRUPT_FRAME, reason)
        if (objection := self._objection(header)) is not None:
            return self._refuse(header, *objection)
        if self._receiving >= MOST_IN_FLIGHT:
            reason = f"{self._receiving} exchanges are in flight here"
            return self._refuse(header, Refusal.OVERLOADED, reason)
        self._receiving += 1
        try:
            return await self.answer(await read())
        except FramesCorrupt as error:
            return self._refuse(header, Refusal.CORRUPT_FRAME, error.message)
        finally:
            self._receiving -= 1

    async def answer(self, offer: Message) -> Message:
        """Apply our half of a whole offer and return our snapshot; or refuse, and change nothing.

        An offer that comes again gets the same answer, and is not applied again.
        """
        while (busy := self._answering.get(offer.exchange_id)) is not None:
            await busy.wait()
        self._note_given_up(offer)
        if (given := self._given.find(offer.exchange_id)) is not None:
            return given
        busy = self._answering[offer.exchange_id] = asyncio.Event()
        try:
            return await self._answered(offer)
        finally:
            del self._answering[offer.exchange_id]
            busy.set()

    async def _answered(self, offer: Message) -> Message:
        mine, theirs = self._buffers.take(), self._buffers.take()
        settled = await self._settled(offer, mine, theirs)
        self._buffers.give(mine, theirs)
        if not isinstance(settled, Message):
            return self._refuse(offer, *settled)
        self.answers[Refusal.NONE] += 1
        self._given.keep(settled)
        return settled

    async def _settled(self, offer: Message, mine: Flat, theirs: Flat) -> Message | Reason:
        """Our answer, with our half applied; or why not, with nothing changed."""
        if (objection := self._objection(offer)) is not None:
            return objection
        if (problem := await self._compute(decoded, offer, self._fingerprint, theirs)) is not None:
            return problem
        snapshot = self._weights.snapshot(mine)
        rounding = self._rounding(offer.codec)
        computed = await self._compute(answered, offer.codec, theirs, mine, self._blobs, rounding)
        if computed is None:
            return Refusal.NON_FINITE, f"the weights of {self._peer} hold NaN or Inf"
        # What was in order when the offer came may not be so any more: this peer leaves, or has offered meanwhile.
        if (objection := self._objection(offer)) is not None:
            return objection
        sent, figures = computed
        withdraws = self._crossing.accept(offer)
        self._apply(mine, figures.distance)
        applied = AppliedHalf(offer.exchange_id, offer.peer, figures.distance, figures.total, figures.norm)
        self.one_sided.applied(applied)
        if self.watcher is not None:
            self.watcher.applied(applied)
        return replace(self._message(offer.exchange_id, snapshot, sent), withdraws=withdraws)

    def _note_given_up(self, offer: Message) -> None:
        """What an offer says of its sender's earlier ones."""
        if offer.withdraws and offer.job == self._job:
            self._crossing.note(offer)
            for half in self.one_sided.given_up(offer.peer, offer.withdraws.split()):
                if self.watcher is not None:
                    self.watcher.alone(half)

    def _objection(self, offer: Message) -> Reason | None:
        """Why an offer must not be applied now, by its header, or None."""
        if self.accepting is not None:
            return self.accepting, f"{self._peer} does not exchange now"
        if offer.peer == self._peer:
            return Refusal.NOT_TRAINING, f"{self._peer} was asked to exchange with itself"
        if offer.job != self._job:
            return Refusal.LAYOUT_MISMATCH, f"{self._peer} trains job {self._job}, not {offer.job}"
        if (objection := objection_to_layout(offer, self._fingerprint, self._weights.exchanged)) is not None:
            return objection
        if (reason := self._crossing.objection(offer)) is not None:
            return Refusal.CROSSING, reason
        return None

    async def show(self, request: Message) -> Message:
        """Our newest snapshot, whole, for a consensus."""
        if request.job != self._job or request.fingerprint != self._fingerprint:
            return self._refusal(request.exchange_id, Refusal.LAYOUT_MISMATCH, "another job or another net")
        if self.accepting is not None:
            return self._refusal(request.exchange_id, self.accepting, "this peer does not exchange now")
        mine = np.empty(self._weights.size, dtype=np.float32)
        snapshot = self._weights.snapshot(mine)
        sent = await self._compute(encoded, "float32", mine)
        if sent is None:
            return self._refusal(request.exchange_id, Refusal.NON_FINITE, "the weights hold NaN or Inf")
        return replace(self._message(request.exchange_id, snapshot, sent), values=self._weights.size)

    # ── both ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _compute(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Arithmetic on whole vectors: here when they are short, else elsewhere while the event loop turns."""
        if self._offload is None or self._weights.size < OFFLOAD_FROM_VALUES:
            return work(*args, **kwargs)
        return await self._offload(work, *args, **kwargs)

    def _rounding(self, codec: str) -> np.random.Generator | None:
        """A generator of one encoding's own: encodings may run in threads, and in any order."""
        return np.random.default_rng(self._rng.getrandbits(64)) if CODECS[codec].stochastic else None

    def _apply(self, own_half: Flat, apart: float) -> None:
        self._weights.add_correction(own_half)
        self.mean_distance = running_mean(self.mean_distance, apart)

    def _message(self, exchange_id: str, snapshot: SnapshotInfo, sent: Sent) -> Message:
        return Message(
            exchange_id=exchange_id,
            peer=self._peer,
            job=self._job,
            fingerprint=self._fingerprint,
            version=snapshot.version,
            codec=sent.codec,
            values=self._weights.exchanged,
            payload=sent.payload,
        )

    def _refuse(self, offer: Message, refusal: Refusal, reason: str) -> Message:
        """The refusal of an offer; final, so it is what the same offer gets again."""
        self.answers[refusal] += 1
        if self.watcher is not None:
            self.watcher.refused(offer, refusal, reason)
        answer = self._refusal(offer.exchange_id, refusal, reason)
        self._given.keep(answer)
        return answer

    def _refusal(self, exchange_id: str, refusal: Refusal, reason: str) -> Message:
        return Message(exchange_id, self._peer, self._job, self._fingerprint, refusal=refusal, reason=reason)
