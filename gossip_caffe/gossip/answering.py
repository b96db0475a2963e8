"""The answering side of an exchange: an offer is checked whole, applied once, and then answered; or refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.gossip.answers import GivenAnswers
from gossip_caffe.gossip.average import Halved, all_finite
from gossip_caffe.gossip.codec import largest_payload_bytes
from gossip_caffe.gossip.message import FramesCorrupt, Message, Refusal
from gossip_caffe.gossip.one_sided import AppliedHalf, OneSided
from gossip_caffe.gossip.party import Party
from gossip_caffe.gossip.payload import Reason, answered, decoded
from gossip_caffe.gossip.seams import Watcher
from gossip_caffe.gossip.swap import Refused, Swap
from gossip_caffe.gossip.transport import Carry
from gossip_caffe.solver.board import SnapshotInfo

Flat = NDArray[np.float32]

MOST_IN_FLIGHT = 4
"""Offers that a peer receives and answers at one time; further ones are refused as OVERLOADED."""

GIVEN_UP = "the offerer hung up before its offer was applied"
"""Why nothing became of an offer whose call ended; nobody waits between applying a half and saying so."""


class Answering:
    """How one peer answers.

    ``answers`` counts by refusal; ``one_sided`` has the halves that only this peer applied, exactly, once their
    offerers have said so. ``watcher`` is told what was answered.
    """

    def __init__(self, party: Party) -> None:
        self.answers: Counter[Refusal] = Counter()
        self.one_sided = OneSided()
        self.watcher: Watcher | None = None
        self._party = party
        self._given = GivenAnswers()
        self._answering: dict[str, asyncio.Event] = {}
        self._receiving = 0

    # ── offers ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def receive(
        self, header: Message, payload_bytes: int, read: Callable[[], Awaitable[Message]]
    ) -> Message:
        """Answer an offer of which only the header has come; ``read`` it only when there is no reason to refuse."""
        if (known := self._known(header)) is not None:
            return known
        most = largest_payload_bytes(self._party.weights.exchanged)
        if payload_bytes > most:
            reason = f"{payload_bytes} bytes announced, {most} is the most"
            return self._refuse(header, Refusal.CORRUPT_FRAME, reason)
        if (objection := self._objection(header)) is not None:
            return self._refuse(header, *objection)
        self._receiving += 1
        try:
            return await self.answer(await read())
        except FramesCorrupt as error:
            return self._refuse(header, Refusal.CORRUPT_FRAME, error.message)
        except asyncio.CancelledError:
            self._refuse(header, Refusal.CORRUPT_FRAME, GIVEN_UP)
            raise
        finally:
            self._receiving -= 1

    async def answer(self, offer: Message) -> Message:
        """Apply our half of a whole offer and return our snapshot; or refuse, and change nothing.

        An offer that comes again gets the same answer, and is not applied again.
        """
        async with self._alone_with(offer):
            if (known := self._known(offer)) is not None:
                return known
            mine, theirs = self._party.buffers.take(), self._party.buffers.take()
            settled = await self._answered(offer, mine, theirs)
            self._party.buffers.give(mine, theirs)
            return self._concluded(offer, settled, keeps_payload=True)

    async def receive_swap(self, header: Message, carry: Carry) -> Message:
        """Answer an offer by header alone: ``carry`` brings its weights while it takes ours there.

        The answer has none; it says that our half is applied, or why not.
        """
        async with self._alone_with(header):
            if (known := self._known(header)) is not None:
                return known
            if (objection := self._objection(header)) is not None:
                return self._refuse(header, *objection)
            mine = self._party.buffers.take()
            self._receiving += 1
            try:
                settled = await self._swapped(header, carry, mine)
            except FramesCorrupt as error:
                settled = Refusal.CORRUPT_FRAME, error.message
            except Refused as error:
                settled = error.refusal, error.reason
            except asyncio.CancelledError:
                self._refuse(header, Refusal.CORRUPT_FRAME, GIVEN_UP)
                raise
            finally:
                self._receiving -= 1
            self._party.buffers.give(mine)
            return self._concluded(header, settled, keeps_payload=False)

    @asynccontextmanager
    async def _alone_with(self, offer: Message) -> AsyncIterator[None]:
        """One at a time of offers with the same id."""
        while (busy := self._answering.get(offer.exchange_id)) is not None:
            await busy.wait()
        busy = self._answering[offer.exchange_id] = asyncio.Event()
        try:
            yield
        finally:
            del self._answering[offer.exchange_id]
            busy.set()

    def _known(self, offer: Message) -> Message | None:
        """Take in what an offer says of its sender's earlier ones; what it got, if it came before."""
        party = self._party
        if offer.withdraws and offer.job == party.job:
            party.crossing.note(offer)
            for half in self.one_sided.given_up(offer.peer, offer.withdraws.split()):
                if self.watcher is not None:
                    self.watcher.alone(half)
        return self._given.find(offer.exchange_id)

    def _objection(self, header: Message) -> Reason | None:
        """Why an offer must not even be received, or None."""
        if (objection := self._party.objection(header)) is not None:
            return objection
        if self._receiving >= MOST_IN_FLIGHT:
            return Refusal.OVERLOADED, f"{self._receiving} exchanges are in flight here"
        return None

    # ── what becomes of them ──────────────────────────────────────────────────────────────────────────────────────

    async def _answered(self, offer: Message, mine: Flat, theirs: Flat) -> Message | Reason:
        """Our answer with our weights, once our half is applied; or why not, with nothing changed."""
        party = self._party
        if (objection := party.objection(offer)) is not None:
            return objection
        if (problem := await party.compute(decoded, offer, party.fingerprint, theirs)) is not None:
            return problem
        snapshot = party.weights.snapshot(mine)
        rounding = party.rounding(offer.codec)
        computed = await party.compute(answered, offer.codec, theirs, mine, party.blobs, rounding)
        if computed is None:
            return Refusal.NON_FINITE, party.holds_nan
        sent, figures = computed
        settled = self._applied(offer, snapshot, mine, figures)
        return replace(settled, payload=sent.payload) if isinstance(settled, Message) else settled

    async def _swapped(self, header: Message, carry: Carry, mine: Flat) -> Message | Reason:
        """Our answer, once our half is applied; or why not, with nothing changed."""
        party = self._party
        snapshot, swap = None, None

        async def prepare() -> Swap:
            nonlocal snapshot, swap
            snapshot, swap = await party.swap(header.codec, mine)
            return swap

        await carry(prepare)
        if swap is None or snapshot is None:
            return Refusal.CORRUPT_FRAME, "nothing was carried"
        half = await party.compute(swap.arriving.half)
        return self._applied(header, snapshot, mine, half) if isinstance(half, Halved) else half

    def _applied(
        self, offer: Message, snapshot: SnapshotInfo, half: Flat, figures: Halved
    ) -> Message | Reason:
        """Apply our half and say so; or why it must not be, after all."""
        party = self._party
        # What was in order when the offer came may not be so any more: this peer leaves, or has offered meanwhile.
        if (objection := party.objection(offer)) is not None:
            return objection
        withdraws = party.crossing.accept(offer)
        party.apply(half, figures.distance)
        applied = AppliedHalf(offer.exchange_id, offer.peer, figures.distance, figures.total, figures.norm)
        self.one_sided.applied(applied)
        if self.watcher is not None:
            self.watcher.applied(applied)
        return replace(party.message(offer.exchange_id, offer.codec, snapshot), withdraws=withdraws)

    def _concluded(self, offer: Message, settled: Message | Reason, keeps_payload: bool) -> Message:
        if not isinstance(settled, Message):
            return self._refuse(offer, *settled)
        self.answers[Refusal.NONE] += 1
        self._given.keep(settled, keeps_payload)
        return settled

    def _refuse(self, offer: Message, refusal: Refusal, reason: str) -> Message:
        """The refusal of an offer; final, so it is what the same offer gets again, and what it got before."""
        if (before := self._given.find(offer.exchange_id)) is not None:
            return before  # another copy of it came whole meanwhile
        self.answers[refusal] += 1
        if self.watcher is not None:
            self.watcher.refused(offer, refusal, reason)
        answer = self._party.refusal(offer.exchange_id, refusal, reason)
        self._given.keep(answer)
        return answer

    # ── snapshots ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def show(self, request: Message) -> Message:
        """Our newest snapshot, whole, for a consensus."""
        party = self._party
        if request.job != party.job or request.fingerprint != party.fingerprint:
            return party.refusal(request.exchange_id, Refusal.LAYOUT_MISMATCH, "another job or another net")
        if party.accepting is not None:
            return party.refusal(request.exchange_id, party.accepting, "this peer does not exchange now")
        mine = np.empty(party.weights.size, dtype=np.float32)
        snapshot = party.weights.snapshot(mine)
        if not await party.compute(all_finite, mine):
            return party.refusal(request.exchange_id, Refusal.NON_FINITE, party.holds_nan)
        shown = party.message(request.exchange_id, "float32", snapshot)
        return replace(shown, payload=mine.view(np.uint8).data, values=party.weights.size)
