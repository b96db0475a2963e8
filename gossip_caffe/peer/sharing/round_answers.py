"""The answers of one peer to the calls of the rounds that it is in; a call of any other round is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gossip_caffe.gossip.codecs.message import FramesCorrupt, Message, Refusal
from gossip_caffe.gossip.protocol.answering import Answering
from gossip_caffe.gossip.protocol.local_peer import LocalPeer
from gossip_caffe.gossip.protocol.swap import Refused
from gossip_caffe.gossip.protocol.transport import Carry
from gossip_caffe.gossip.rounds.attempt import Attempt
from gossip_caffe.gossip.rounds.words import RoundLink

KNOWN_FOR_S = 5.0
"""A call of a round that this peer has not heard of yet waits so long: the leader's word may come later."""


class RoundAnswers:
    """An ``Answerer`` and a ``RoundAnswerer``. ``attended`` speaks with a member of the rounds that this peer leads."""

    def __init__(self, peer: LocalPeer, attended: Callable[[RoundLink], Awaitable[None]]) -> None:
        self._peer = peer
        self._attended = attended
        self._clock = peer.clock
        self._shows = Answering(peer)
        self._attempt: Attempt | None = None
        self._begun = asyncio.Event()

    def begin(self, attempt: Attempt) -> None:
        """Answer the calls of this attempt from now on, and those of no other."""
        self._attempt = attempt
        self._begun.set()
        self._begun = asyncio.Event()

    async def attend(self, link: RoundLink) -> None:
        """Speak with one member of the rounds that this peer leads."""
        await self._attended(link)

    async def receive(
        self, header: Message, payload_bytes: int, read: Callable[[], Awaitable[Message]]
    ) -> Message:
        """Answer a call of a round whose header has come; ``read`` brings its weights."""
        try:
            attempt = await self._attempt_of(header)
            if payload_bytes > self._peer.weights.exchanged * 4:
                raise Refused(Refusal.CORRUPT_FRAME, f"{payload_bytes} bytes announced for a segment")
            return await attempt.trades.answer(header, read)
        except Refused as error:
            return self._refusal(header, error.refusal, error.reason)
        except FramesCorrupt as error:
            return self._refusal(header, Refusal.CORRUPT_FRAME, error.message)

    async def answer(self, offer: Message) -> Message:
        """Answer a whole call of a round."""

        async def read() -> Message:
            return offer

        return await self.receive(offer, len(offer.payload), read)

    async def receive_swap(self, header: Message, carry: Carry) -> Message:
        """Answer a call of a round whose weights ``carry`` brings."""
        try:
            attempt = await self._attempt_of(header)
            return await attempt.trades.answer_swap(header, carry)
        except Refused as error:
            return self._refusal(header, error.refusal, error.reason)
        except FramesCorrupt as error:
            return self._refusal(header, Refusal.CORRUPT_FRAME, error.message)

    async def show(self, request: Message) -> Message:
        """The newest weights, for a consensus."""
        return await self._shows.show(request)

    async def _attempt_of(self, header: Message) -> Attempt:
        """The attempt of the round that a call names. Raises Refused."""
        peer = self._peer
        if header.job != peer.job or header.fingerprint != peer.fingerprint:
            raise Refused(Refusal.LAYOUT_MISMATCH, "another job or another net")
        if not header.phase:
            raise Refused(Refusal.OTHER_ROUND, f"{peer.name} shares in rounds (strategy=sync)")
        attempt = self._attempt
        if attempt is not None and attempt.round == header.exchange_id:
            return attempt  # nearly always: without a timer
        try:
            async with self._clock.timeout(KNOWN_FOR_S):
                while (attempt := self._attempt) is None or attempt.round != header.exchange_id:
                    await self._begun.wait()
        except TimeoutError:
            raise Refused(Refusal.OTHER_ROUND, f"{peer.name} is not in round {header.exchange_id}") from None
        return attempt

    def _refusal(self, header: Message, refusal: Refusal, reason: str) -> Message:
        return self._peer.refusal(header.exchange_id, refusal, reason)
