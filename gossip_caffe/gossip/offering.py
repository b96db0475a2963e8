"""The offering side of an exchange: whatever happens, the own weights change when a whole answer is in order, or not.

A small model's offer carries its weights, and the answer the partner's. A large model (``SWAP_FROM_VALUES``) is offered
by a header alone; once the partner is ready both snapshots travel at the same time, and the answer says how it ended.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.average import Halved
from gossip_caffe.gossip.codec import codec_named
from gossip_caffe.gossip.crossing import OwnOffer
from gossip_caffe.gossip.deadline import Deadlines
from gossip_caffe.gossip.message import FramesCorrupt, Message, Refusal, Undelivered
from gossip_caffe.gossip.one_sided import GivenUp
from gossip_caffe.gossip.outcome import Outcome, OutcomeKind, kind_of
from gossip_caffe.gossip.party import Party
from gossip_caffe.gossip.payload import Sent, decoded, encoded, halved
from gossip_caffe.gossip.swap import Refused, Swap
from gossip_caffe.gossip.transport import Transport
from gossip_caffe.solver.board import SnapshotInfo

Flat = NDArray[np.float32]
Ending = tuple[OutcomeKind, Refusal, str]

SWAP_FROM_VALUES = 1_000_000
"""Models from this many values on are exchanged both ways at once."""
NO_SNAPSHOT = SnapshotInfo(0, 0, 0, 0, 0)
"""Of an offer that was refused before there was one."""


class Offering:
    """One peer's own offers, of which one at a time is in flight.

    ``outcomes`` counts them by kind; ``unanswered`` those after which perhaps only the partner changed its weights.
    """

    def __init__(self, party: Party, transport: Transport, codec: str) -> None:
        self.outcomes: Counter[OutcomeKind] = Counter()
        self.unanswered = 0
        self._party = party
        self._transport = transport
        self._codec = codec
        self._given_up = GivenUp()
        self._deadlines = Deadlines(2 * codec_named(codec).payload_bytes(party.weights.exchanged))

    def deadline_s(self, partner: str) -> float:
        """How long the next offer to a partner will wait for its answer."""
        return self._deadlines.of(partner).seconds

    def new_id(self) -> str:
        """An id for the next own offer."""
        return f"{self._party.peer}-{self._party.rng.getrandbits(48):012x}"

    async def offer_to(self, partner: str, address: str, exchange_id: str = "") -> Outcome:
        """Exchange with a partner; changes this peer's weights only when the kind is APPLIED.

        One at a time: raises ExchangeFailed, and changes nothing, while another offer of this peer is in flight.
        """
        party = self._party
        if party.crossing.own is not None:
            raise ExchangeFailed("an exchange that this peer offered is still in flight")
        own = party.crossing.begin(exchange_id or self.new_id(), partner)
        try:
            outcome = await self._offered(own, address)
        except asyncio.CancelledError:
            self.outcomes[OutcomeKind.FAILED] += 1
            self._perhaps_one_sided(own)
            raise
        finally:
            party.crossing.end()
        self.outcomes[outcome.kind] += 1
        return outcome

    async def _offered(self, own: OwnOffer, address: str) -> Outcome:
        party = self._party
        mine = party.buffers.take()
        swaps = party.weights.exchanged >= SWAP_FROM_VALUES and self._transport.swaps(address)
        snapshot, ended = await (self._swapped if swaps else self._sent)(own, address, mine)
        outcome = self._concluded(own, snapshot, ended, mine)
        party.buffers.give(mine)
        return outcome

    def _concluded(
        self, own: OwnOffer, snapshot: SnapshotInfo, ended: Ending | Halved, half: Flat
    ) -> Outcome:
        party = self._party
        if isinstance(ended, Halved) and own.withdrawn:
            # The partner gave its own offer up, which was answered here, and then took this one: one of them is enough.
            ended = OutcomeKind.WITHDRAWN, Refusal.CROSSING, f"the offer of {own.partner} was applied"
        if isinstance(ended, Halved):
            party.apply(half, ended.distance)
            return Outcome(
                OutcomeKind.APPLIED,
                own.exchange_id,
                own.partner,
                snapshot,
                ended.distance,
                half_sum=ended.total,
                half_norm=ended.norm,
            )
        kind, refusal, reason = ended
        if kind is OutcomeKind.REJECTED:
            self._perhaps_one_sided(own)
        elif kind is OutcomeKind.WITHDRAWN:
            self._given_up.add(own.partner, own.exchange_id)
        return Outcome(kind, own.exchange_id, own.partner, snapshot, 0.0, refusal, reason)

    # ── weights in the offer, weights in the answer ───────────────────────────────────────────────────────────────

    async def _sent(self, own: OwnOffer, address: str, mine: Flat) -> tuple[SnapshotInfo, Ending | Halved]:
        """The half is in ``mine``."""
        party = self._party
        snapshot = party.weights.snapshot(mine)
        header = self._header(own, snapshot)
        rounding = party.rounding(self._codec)
        sent = await party.compute(encoded, self._codec, mine, party.blobs, rounding)
        if sent is None:
            return snapshot, (OutcomeKind.REFUSED, Refusal.NON_FINITE, party.holds_nan)
        if own.withdrawn:
            return snapshot, _withdrawn(own)
        offer = replace(header, payload=sent.payload)
        answer = await self._answer_of(
            own, offer, lambda deadline_s: self._transport.exchange(address, offer, deadline_s)
        )
        if not isinstance(answer, Message):
            return snapshot, answer
        theirs = party.buffers.take()
        half = await self._half_of(answer, sent, mine, theirs)
        party.buffers.give(theirs)
        return snapshot, half

    async def _half_of(self, answer: Message, sent: Sent, mine: Flat, theirs: Flat) -> Halved | Ending:
        """Our half into ``mine``, and its figures; or why it must not be applied."""
        party = self._party
        if (problem := await party.compute(decoded, answer, party.fingerprint, theirs)) is not None:
            return OutcomeKind.REJECTED, *problem
        return await party.compute(halved, sent, theirs, mine)

    # ── both ways at once ─────────────────────────────────────────────────────────────────────────────────────────

    async def _swapped(self, own: OwnOffer, address: str, mine: Flat) -> tuple[SnapshotInfo, Ending | Halved]:
        """The half is in ``mine``."""
        party = self._party
        snapshot, swap = NO_SNAPSHOT, None

        async def prepare() -> Swap:
            nonlocal snapshot, swap
            snapshot, swap = await party.swap(self._codec, mine)
            if own.withdrawn:
                raise Refused(Refusal.CROSSING, _withdrawn(own)[2])
            return swap

        offer = self._header(own)
        answer = await self._answer_of(
            own, offer, lambda deadline_s: self._transport.swap(address, offer, prepare, deadline_s)
        )
        if not isinstance(answer, Message):
            return snapshot, answer
        if swap is None:
            return snapshot, (OutcomeKind.REJECTED, Refusal.CORRUPT_FRAME, "an answer before any weights")
        half = await party.compute(swap.arriving.half)
        return snapshot, half if isinstance(half, Halved) else (OutcomeKind.REJECTED, *half)

    # ── either ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _header(self, own: OwnOffer, snapshot: SnapshotInfo | None = None) -> Message:
        return replace(
            self._party.message(own.exchange_id, self._codec, snapshot),
            answered=self._party.crossing.answered_of(own.partner),
            withdraws=" ".join(self._given_up.named_to(own.partner)),
        )

    async def _answer_of(
        self, own: OwnOffer, offer: Message, send: Callable[[float], Coroutine[Any, Any, Message]]
    ) -> Message | Ending:
        """The partner's answer; or how the exchange ended without one."""
        party = self._party
        deadline_s, began = self.deadline_s(own.partner), party.clock.monotonic()
        try:
            answer = await send(deadline_s)
        except Refused as error:
            return kind_of(error.refusal), error.refusal, error.reason
        except FramesCorrupt as error:
            return OutcomeKind.REJECTED, Refusal.CORRUPT_FRAME, error.message
        except ExchangeFailed as error:
            if party.clock.monotonic() - began >= deadline_s:
                self._deadlines.of(own.partner).passed()
            if not isinstance(error, Undelivered):
                self._perhaps_one_sided(own)
            return OutcomeKind.FAILED, Refusal.NONE, error.message
        party.crossing.note(answer)
        if answer.exchange_id == offer.exchange_id:
            self._given_up.told(own.partner, offer.withdraws.split())
        if answer.refusal is not Refusal.NONE:
            return kind_of(answer.refusal), answer.refusal, answer.reason
        if answer.exchange_id != offer.exchange_id:
            return OutcomeKind.REJECTED, Refusal.CORRUPT_FRAME, f"an answer to {answer.exchange_id}"
        self._deadlines.of(own.partner).answered(party.clock.monotonic() - began)
        return answer

    def _perhaps_one_sided(self, own: OwnOffer) -> None:
        self.unanswered += 1
        self._given_up.add(own.partner, own.exchange_id)


def _withdrawn(own: OwnOffer) -> Ending:
    return OutcomeKind.WITHDRAWN, Refusal.CROSSING, f"{own.partner} offered first"
