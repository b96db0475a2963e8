"""The offering side of an exchange: the own weights change only after a whole and valid answer, and at most once.

The offer of a small model carries its weights, and the answer carries the partner's. The offer of a large model (from
``SWAP_FROM_VALUES`` on, or of any size where the transport says so) is a header alone; once the partner is ready, both
snapshots travel at the same time, and the answer says how the swap ended.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Container, Coroutine
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.averaging.average import HalfStats
from gossip_caffe.gossip.averaging.bound import UNMEASURED
from gossip_caffe.gossip.codecs.codec import codec_named
from gossip_caffe.gossip.codecs.message import FramesCorrupt, Message, Refusal, Undelivered
from gossip_caffe.gossip.policy.deadline import Deadlines
from gossip_caffe.gossip.protocol.crossing_offers import OwnOffer
from gossip_caffe.gossip.protocol.local_peer import LocalPeer
from gossip_caffe.gossip.protocol.one_sided import GivenUp
from gossip_caffe.gossip.protocol.outcome import Outcome, OutcomeKind, kind_of
from gossip_caffe.gossip.protocol.payload import EncodedSnapshot, decoded, encoded, halved
from gossip_caffe.gossip.protocol.swap import Refused, Swap
from gossip_caffe.gossip.protocol.transport import Transport
from gossip_caffe.solver.board import SnapshotInfo

Flat = NDArray[np.float32]
Ending = tuple[OutcomeKind, Refusal, str]

SWAP_FROM_VALUES = 1_000_000
"""From this many values on, the weights of an exchange travel both ways at once."""
NO_SNAPSHOT = SnapshotInfo(0, 0, 0, 0, 0)
"""The snapshot of an offer that was refused before a snapshot was taken."""


class Offering:
    """One peer's own offers, of which one at a time is in flight.

    ``outcomes`` counts the offers by the kind of their end. ``unanswered`` counts the offers after which possibly only
    the partner changed its weights.
    """

    def __init__(self, peer: LocalPeer, transport: Transport, codec: str) -> None:
        self.outcomes: Counter[OutcomeKind] = Counter()
        self.unanswered = 0
        self._peer = peer
        self._transport = transport
        self._codec = codec
        self._given_up = GivenUp()
        self._deadlines = Deadlines(2 * codec_named(codec).payload_bytes(peer.weights.exchanged))

    def deadline_s(self, partner: str) -> float:
        """The deadline of the next offer to a partner, in seconds."""
        return self._deadlines.of(partner).seconds

    def forget(self, living: Container[str]) -> None:
        """Drop the records of all partners that are not among ``living``."""
        self._given_up.forget(living)
        self._deadlines.forget(living)
        self._peer.crossing.forget(living)

    def new_id(self) -> str:
        """A fresh id for the next own offer."""
        return f"{self._peer.name}-{self._peer.rng.getrandbits(48):012x}"

    async def offer_to(self, partner: str, address: str, exchange_id: str = "") -> Outcome:
        """Exchange with ``partner`` at ``address``; this peer's weights change only if the outcome's kind is APPLIED.

        Raises ExchangeFailed, and changes nothing, while another offer of this peer is in flight. ``exchange_id``: ""
        takes a fresh id.
        """
        peer = self._peer
        if peer.crossing.own is not None:
            raise ExchangeFailed("an exchange that this peer offered is still in flight")
        own = peer.crossing.begin(exchange_id or self.new_id(), partner)
        if peer.rates is not None:
            peer.rates.note_own(peer.clock.monotonic())
        try:
            outcome = await self._offered(own, address)
        except asyncio.CancelledError:
            self.outcomes[OutcomeKind.FAILED] += 1
            self._perhaps_one_sided(own)
            raise
        finally:
            peer.crossing.end()
        self.outcomes[outcome.kind] += 1
        return outcome

    async def _offered(self, own: OwnOffer, address: str) -> Outcome:
        peer = self._peer
        mine, generation = peer.buffers.take(), peer.generation
        swaps = self._transport.swaps(address, is_large=peer.weights.exchanged >= SWAP_FROM_VALUES)
        snapshot, ended = await (self._swapped if swaps else self._sent)(own, address, mine)
        outcome = self._concluded(own, snapshot, ended, mine, generation)
        peer.buffers.give(mine)
        return outcome

    def _concluded(
        self, own: OwnOffer, snapshot: SnapshotInfo, ended: Ending | HalfStats, half: Flat, generation: int
    ) -> Outcome:
        peer, reach = self._peer, UNMEASURED
        if isinstance(ended, HalfStats) and own.withdrawn:
            # This peer has answered the partner's crossing offer. The partner gave that offer up and then applied this
            # one. Only one of the two exchanges may be applied here.
            ended = OutcomeKind.WITHDRAWN, Refusal.CROSSING, f"the offer of {own.partner} was applied"
        elif isinstance(ended, HalfStats) and peer.generation != generation:
            ended = OutcomeKind.REJECTED, Refusal.NOT_TRAINING, "this peer has other weights by now"
        elif isinstance(ended, HalfStats) and (reach := peer.reach(ended)).too_far:
            ended = OutcomeKind.REJECTED, Refusal.TOO_FAR, f"it would move {peer.name} by {reach.words}"
        if isinstance(ended, HalfStats):
            share = peer.apply_half(own.partner, half, ended)
            return Outcome(
                OutcomeKind.APPLIED,
                own.exchange_id,
                own.partner,
                snapshot,
                ended.distance,
                half_sum=ended.total,
                half_norm=ended.norm,
                reach=reach,
                by=ended.by,
                share=share,
            )
        kind, refusal, reason = ended
        if kind is OutcomeKind.REJECTED:
            self._perhaps_one_sided(own)
        elif kind is OutcomeKind.WITHDRAWN:
            self._given_up.add(own.partner, own.exchange_id)
        return Outcome(kind, own.exchange_id, own.partner, snapshot, 0.0, refusal, reason, reach=reach)

    # ── weights in the offer, weights in the answer ───────────────────────────────────────────────────────────────

    async def _sent(self, own: OwnOffer, address: str, mine: Flat) -> tuple[SnapshotInfo, Ending | HalfStats]:
        """Exchange with the weights inside the two messages. The half is in ``mine`` afterwards."""
        peer = self._peer
        snapshot = peer.weights.snapshot(mine)
        header = self._header(own, snapshot)
        rounding = peer.rounding(self._codec)
        sent = await peer.compute(encoded, self._codec, mine, peer.blobs, rounding)
        if sent is None:
            return snapshot, (OutcomeKind.REFUSED, Refusal.NON_FINITE, peer.holds_nan)
        if own.withdrawn:
            return snapshot, _withdrawn(own)
        offer = replace(header, payload=sent.payload)
        answer = await self._answer_of(
            own, offer, lambda deadline_s: self._transport.exchange(address, offer, deadline_s)
        )
        if not isinstance(answer, Message):
            return snapshot, answer
        other = peer.buffers.take()
        half = await self._half_of(answer, sent, mine, other)
        peer.buffers.give(other)
        return snapshot, half

    async def _half_of(
        self, answer: Message, sent: EncodedSnapshot, mine: Flat, other: Flat
    ) -> HalfStats | Ending:
        """Compute the own half into ``mine`` and return its figures, or the reason why it must not be applied."""
        peer = self._peer
        if (problem := await peer.compute(decoded, answer, peer.fingerprint, other)) is not None:
            return OutcomeKind.REJECTED, *problem
        return await peer.compute(halved, sent, other, mine, peer.bound.warming)

    # ── both ways at once ─────────────────────────────────────────────────────────────────────────────────────────

    async def _swapped(
        self, own: OwnOffer, address: str, mine: Flat
    ) -> tuple[SnapshotInfo, Ending | HalfStats]:
        """Exchange with the weights on a connection of their own. The half is in ``mine`` afterwards."""
        peer = self._peer
        snapshot, swap = NO_SNAPSHOT, None

        async def prepare() -> Swap:
            nonlocal snapshot, swap
            snapshot, swap = await peer.swap(self._codec, mine)
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
        half = await peer.compute(swap.arriving.half)
        return snapshot, half if isinstance(half, HalfStats) else (OutcomeKind.REJECTED, *half)

    # ── both kinds of transfer ─────────────────────────────────────────────────────────────────────────────────────

    def _header(self, own: OwnOffer, snapshot: SnapshotInfo | None = None) -> Message:
        return replace(
            self._peer.message(own.exchange_id, self._codec, snapshot),
            answered=self._peer.crossing.answered_of(own.partner),
            withdraws=" ".join(self._given_up.named_to(own.partner)),
        )

    async def _answer_of(
        self, own: OwnOffer, offer: Message, send: Callable[[float], Coroutine[Any, Any, Message]]
    ) -> Message | Ending:
        """The partner's answer, or the end of an exchange that got no usable answer."""
        peer = self._peer
        deadline_s, began = self.deadline_s(own.partner), peer.clock.monotonic()
        try:
            answer = await send(deadline_s)
        except Refused as error:
            return kind_of(error.refusal), error.refusal, error.reason
        except FramesCorrupt as error:
            return OutcomeKind.REJECTED, Refusal.CORRUPT_FRAME, error.message
        except ExchangeFailed as error:
            if peer.clock.monotonic() - began >= deadline_s:
                self._deadlines.of(own.partner).passed()
            if not isinstance(error, Undelivered):
                self._perhaps_one_sided(own)
            return OutcomeKind.FAILED, Refusal.NONE, error.message
        peer.crossing.note(answer)
        if answer.exchange_id == offer.exchange_id:
            self._given_up.told(own.partner, offer.withdraws.split())
        if answer.refusal is not Refusal.NONE:
            return kind_of(answer.refusal), answer.refusal, answer.reason
        if answer.exchange_id != offer.exchange_id:
            return OutcomeKind.REJECTED, Refusal.CORRUPT_FRAME, f"an answer to {answer.exchange_id}"
        self._deadlines.of(own.partner).answered(peer.clock.monotonic() - began)
        return answer

    def _perhaps_one_sided(self, own: OwnOffer) -> None:
        self.unanswered += 1
        self._given_up.add(own.partner, own.exchange_id)


def _withdrawn(own: OwnOffer) -> Ending:
    return OutcomeKind.WITHDRAWN, Refusal.CROSSING, f"{own.partner} offered first"
