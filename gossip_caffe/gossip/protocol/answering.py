"""The answering side of an exchange: an offer is checked whole, applied once and then answered, or it is refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.gossip.averaging.average import HalfStats, all_finite
from gossip_caffe.gossip.codecs.codec import codec_named, largest_payload_bytes
from gossip_caffe.gossip.codecs.message import FramesCorrupt, Message, Refusal
from gossip_caffe.gossip.protocol.answer_cache import GivenAnswers
from gossip_caffe.gossip.protocol.local_peer import LocalPeer
from gossip_caffe.gossip.protocol.one_sided import AppliedHalf, OneSided
from gossip_caffe.gossip.protocol.payload import Reason, answered, decoded
from gossip_caffe.gossip.protocol.places import PlaceLost, Places, TooSlow, TransferPlace, caller_of
from gossip_caffe.gossip.protocol.ports import Watcher
from gossip_caffe.gossip.protocol.shared_copy import SharedCopy
from gossip_caffe.gossip.protocol.swap import Refused, Swap
from gossip_caffe.gossip.protocol.transport import Carry
from gossip_caffe.solver.board import SnapshotInfo

Flat = NDArray[np.float32]

MOST_IN_FLIGHT = 4
"""The number of offers that a peer receives and answers at one time.

A further offer takes the place of a slow one, or is refused.
"""

GIVEN_UP = "the offerer hung up before its offer was applied"
"""The reason in the log when the call of an offer ends early.

The call cannot end between applying a half and logging it: no ``await`` lies between them.
"""


class Answering:
    """One peer's answers to the offers of other peers.

    ``answers`` counts the answers by their refusal. ``one_sided`` holds exactly the halves that only this peer applied,
    as soon as their offerers have reported them. ``watcher`` is told of every answer.
    """

    def __init__(self, peer: LocalPeer) -> None:
        self.answers: Counter[Refusal] = Counter()
        self.one_sided = OneSided()
        self.watcher: Watcher | None = None
        self._peer = peer
        self._given = GivenAnswers()
        self._shown = SharedCopy(peer.weights)
        self._answering: dict[str, asyncio.Event] = {}
        self._receiving = Places(MOST_IN_FLIGHT, peer.clock)

    # ── offers ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def receive(
        self, header: Message, payload_bytes: int, read: Callable[[], Awaitable[Message]]
    ) -> Message:
        """Answer an offer whose header has come. ``read`` brings the rest; it is called only if the header suits."""
        if (known := self._known(header)) is not None:
            return known
        most = largest_payload_bytes(self._peer.weights.exchanged)
        if payload_bytes > most:
            reason = f"{payload_bytes} bytes announced, and the limit is {most}"
            return self._refuse(header, Refusal.CORRUPT_FRAME, reason)
        if (objection := self._objection(header, read)) is not None:
            return self._refuse(header, *objection)
        async with self._receiving.taken(caller_of(header.peer, read), payload_bytes) as place:
            place.measure(read)
            try:
                return await self.answer(await place.transfer(read()))
            except PlaceLost as error:
                return self._refuse(header, Refusal.OVERLOADED, error.message)
            except (FramesCorrupt, TooSlow) as error:
                return self._refuse(header, Refusal.CORRUPT_FRAME, error.message)
            except asyncio.CancelledError:
                self._refuse(header, Refusal.CORRUPT_FRAME, GIVEN_UP)
                raise

    async def answer(self, offer: Message) -> Message:
        """Apply the own half of a whole offer and return the own snapshot; or refuse, and change nothing.

        A repeated offer gets the same answer and is not applied again.
        """
        async with self._alone_with(offer):
            if (known := self._known(offer)) is not None:
                return known
            mine, other = self._peer.buffers.take(), self._peer.buffers.take()
            settled = await self._answered(offer, mine, other)
            self._peer.buffers.give(mine, other)
            return self._concluded(offer, settled, keeps_payload=True)

    async def receive_swap(self, header: Message, carry: Carry) -> Message:
        """Answer an offer whose message is a header alone: ``carry`` moves both sides' weights at the same time.

        The answer holds no weights. It says that the own half is applied, or why it is not.
        """
        async with self._alone_with(header):
            if (known := self._known(header)) is not None:
                return known
            if (objection := self._objection(header, carry)) is not None:
                return self._refuse(header, *objection)
            mine = self._peer.buffers.take()
            size_bytes = codec_named(header.codec).payload_bytes(self._peer.weights.exchanged)
            async with self._receiving.taken(caller_of(header.peer, carry), size_bytes) as place:
                try:
                    settled = await self._swapped(header, carry, mine, place)
                except PlaceLost as error:
                    settled = Refusal.OVERLOADED, error.message
                except (FramesCorrupt, TooSlow) as error:
                    settled = Refusal.CORRUPT_FRAME, error.message
                except Refused as error:
                    settled = error.refusal, error.reason
                except asyncio.CancelledError:
                    self._refuse(header, Refusal.CORRUPT_FRAME, GIVEN_UP)
                    raise
            self._peer.buffers.give(mine)
            return self._concluded(header, settled, keeps_payload=False)

    @asynccontextmanager
    async def _alone_with(self, offer: Message) -> AsyncIterator[None]:
        """Wait until no other copy of this offer is being answered, and keep further copies waiting."""
        while (busy := self._answering.get(offer.exchange_id)) is not None:
            await busy.wait()
        busy = self._answering[offer.exchange_id] = asyncio.Event()
        try:
            yield
        finally:
            del self._answering[offer.exchange_id]
            busy.set()

    def _known(self, offer: Message) -> Message | None:
        """Note the offers that this one withdraws, and return the answer that this offer got before, if any."""
        peer = self._peer
        if offer.withdraws and offer.job == peer.job:
            peer.crossing.note(offer)
            for half in self.one_sided.given_up(offer.peer, offer.withdraws.split()):
                if self.watcher is not None:
                    self.watcher.alone(half)
        return self._given.find(offer.exchange_id)

    def _objection(self, header: Message, transfer: object) -> Reason | None:
        """The reason to refuse an offer before its weights are received, or None."""
        if (objection := self._peer.objection(header)) is not None:
            return objection
        rates = self._peer.rates
        if rates is not None and (often := rates.objection(header.peer, self._peer.clock.monotonic())):
            return Refusal.OVERLOADED, often
        if not (found := self._receiving.admission(caller_of(header.peer, transfer))).is_admitted:
            return Refusal.OVERLOADED, found.reason
        return None

    # ── applying and refusing ─────────────────────────────────────────────────────────────────────────────────────────

    async def _answered(self, offer: Message, mine: Flat, other: Flat) -> Message | Reason:
        """Apply the own half and return the answer with the own weights; or a reason, with nothing changed."""
        peer = self._peer
        generation = peer.generation
        if (objection := peer.objection(offer)) is not None:
            return objection
        if (problem := await peer.compute(decoded, offer, peer.fingerprint, other)) is not None:
            return problem
        snapshot = peer.weights.snapshot(mine)
        rounding = peer.rounding(offer.codec)
        warming = peer.bound.warming
        computed = await peer.compute(answered, offer.codec, other, mine, peer.blobs, rounding, warming)
        if computed is None:
            return Refusal.NON_FINITE, peer.holds_nan
        sent, figures = computed
        settled = self._applied(offer, snapshot, mine, figures, generation)
        return replace(settled, payload=sent.payload) if isinstance(settled, Message) else settled

    async def _swapped(
        self, header: Message, carry: Carry, mine: Flat, place: TransferPlace
    ) -> Message | Reason:
        """Apply the own half after the swap and return the answer; or a reason, with nothing changed."""
        peer = self._peer
        generation = peer.generation
        snapshot, swap = None, None

        async def prepare() -> Swap:
            nonlocal snapshot, swap
            snapshot, swap = await peer.swap(header.codec, mine)
            return swap

        place.measure(carry)
        place.moved = lambda: swap.arriving.came_bytes if swap is not None else 0
        await place.transfer(carry(prepare))
        if swap is None or snapshot is None:
            return Refusal.CORRUPT_FRAME, "no weights were carried"
        half = await peer.compute(swap.arriving.half)
        if not isinstance(half, HalfStats):
            return half
        return self._applied(header, snapshot, mine, half, generation)

    def _applied(
        self, offer: Message, snapshot: SnapshotInfo, half: Flat, figures: HalfStats, generation: int
    ) -> Message | Reason:
        """Apply the own half and return the answer; or the reason why it must not be applied after all."""
        peer = self._peer
        # Checked a second time: since the offer came, this peer may have begun to leave, or to offer itself.
        if (objection := peer.objection(offer)) is not None:
            return objection
        if peer.generation != generation:
            return Refusal.NOT_TRAINING, f"{peer.name} has other weights by now"
        reach = peer.reach(figures)
        if reach.too_far:
            if self.watcher is not None:
                self.watcher.too_far(offer, reach)
            return Refusal.TOO_FAR, f"it would move {peer.name} by {reach.words}"
        withdraws = peer.crossing.accept(offer)
        share = peer.apply_half(offer.peer, half, figures)
        applied = AppliedHalf(
            offer.exchange_id,
            offer.peer,
            figures.distance,
            figures.total,
            figures.norm,
            reach,
            figures.by,
            share,
        )
        self.one_sided.applied(applied)
        if self.watcher is not None:
            self.watcher.applied(applied)
        return replace(peer.message(offer.exchange_id, offer.codec, snapshot), withdraws=withdraws)

    def _concluded(self, offer: Message, settled: Message | Reason, keeps_payload: bool) -> Message:
        if not isinstance(settled, Message):
            return self._refuse(offer, *settled)
        self.answers[Refusal.NONE] += 1
        self._given.keep(settled, keeps_payload)
        return settled

    def _refuse(self, offer: Message, refusal: Refusal, reason: str) -> Message:
        """Refuse an offer. The answer to an offer is final: its copies get the same one, also if it was applied."""
        if (before := self._given.find(offer.exchange_id)) is not None:
            return before  # another copy of this offer was answered meanwhile
        self.answers[refusal] += 1
        if self.watcher is not None:
            self.watcher.refused(offer, refusal, reason)
        answer = self._peer.refusal(offer.exchange_id, refusal, reason)
        self._given.keep(answer)
        return answer

    # ── snapshots ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def show(self, request: Message) -> Message:
        """The own newest snapshot, whole, as float32, for a consensus; or a refusal."""
        peer = self._peer
        if request.job != peer.job or request.fingerprint != peer.fingerprint:
            return peer.refusal(request.exchange_id, Refusal.LAYOUT_MISMATCH, "another job or another net")
        if peer.accepting is not None:
            return peer.refusal(request.exchange_id, peer.accepting, "this peer does not exchange now")
        mine, snapshot = self._shown.newest()
        if not await peer.compute(all_finite, mine):
            return peer.refusal(request.exchange_id, Refusal.NON_FINITE, peer.holds_nan)
        shown = peer.message(request.exchange_id, "float32", snapshot)
        return replace(shown, payload=mine.view(np.uint8).data, values=peer.weights.size)
