"""A transport and an answerer that count the bytes of weights which exchanges carry, by direction and codec.

Both wrap others of their kind and change nothing else. Consensus snapshots and files of checkpoints are not counted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.codecs.message import Message
from gossip_caffe.gossip.protocol.snapshot_stream import SnapshotReader
from gossip_caffe.gossip.protocol.swap import BothWays
from gossip_caffe.gossip.protocol.transport import Answerer, Carry, Prepare, Transport
from gossip_caffe.gossip.rounds.words import RoundLink, answerer_of, carrier_of

RECEIVED, SENT = "received", "sent"

Count = Callable[[str, str, int], None]
"""Called with (direction, codec, bytes). The codec of a stranger's offer may be any text."""


class MeteredTransport:
    """A ``Transport`` whose exchanges are counted by ``count``."""

    def __init__(self, transport: Transport, count: Count) -> None:
        self._transport = transport
        self._count = count

    async def exchange(self, address: str, offer: Message, deadline_s: float) -> Message:
        """Deliver an offer and return the answer. Both are counted when the answer has come."""
        answer = await self._transport.exchange(address, offer, deadline_s)
        self._count(SENT, offer.codec, len(offer.payload))
        self._count(RECEIVED, answer.codec, len(answer.payload))
        return answer

    def swaps(self, address: str, *, is_large: bool) -> bool:
        """Whether weights are to travel both ways at once."""
        return self._transport.swaps(address, is_large=is_large)

    async def swap(self, address: str, offer: Message, prepare: Prepare, deadline_s: float) -> Message:
        """Swap weights. They are counted as far as they were carried, also if the swap fails."""
        noting = _Noting(prepare)
        try:
            return await self._transport.swap(address, offer, noting.prepare, deadline_s)
        finally:
            noting.count(self._count, offer.codec)

    async def attend(self, address: str) -> RoundLink:
        """Open a stream of the words of rounds. Raises ExchangeFailed, also if the transport carries none."""
        if (carrier := carrier_of(self._transport)) is None:
            raise ExchangeFailed(f"{address}: this transport carries no rounds")
        return await carrier.attend(address)

    async def snapshot(self, address: str, request: Message, deadline_s: float) -> SnapshotReader:
        """Ask a peer for its newest weights."""
        return await self._transport.snapshot(address, request, deadline_s)

    async def forget(self, living: Container[str]) -> None:
        """Drop the state of all addresses that are not among ``living``."""
        await self._transport.forget(living)


class MeteredAnswerer:
    """An ``Answerer`` whose exchanges are counted by ``count``."""

    def __init__(self, answerer: Answerer, count: Count) -> None:
        self._answerer = answerer
        self._count = count

    async def receive(
        self, header: Message, payload_bytes: int, read: Callable[[], Awaitable[Message]]
    ) -> Message:
        """Answer an offer. A refused offer counts as far as it was received."""
        answer = await self._answerer.receive(header, payload_bytes, read)
        came_bytes = int(getattr(read, "moved_bytes", 0 if answer.refusal else payload_bytes))
        self._note(header, answer, came_bytes)
        return answer

    async def answer(self, offer: Message) -> Message:
        """Answer a whole offer."""
        answer = await self._answerer.answer(offer)
        self._note(offer, answer, len(offer.payload))
        return answer

    async def receive_swap(self, header: Message, carry: Carry) -> Message:
        """Answer an offer without weights. They are counted as far as they were carried, also if the swap fails."""
        noting = _NotingCarry(carry)
        try:
            return await self._answerer.receive_swap(header, noting)
        finally:
            noting.count(self._count, header.codec)

    async def attend(self, link: RoundLink) -> None:
        """Speak with a member of rounds; a peer that leads none ends the stream."""
        if (answerer := answerer_of(self._answerer)) is not None:
            await answerer.attend(link)

    async def show(self, request: Message) -> Message:
        """The newest weights."""
        return await self._answerer.show(request)

    def _note(self, offer: Message, answer: Message, came_bytes: int) -> None:
        self._count(RECEIVED, offer.codec, came_bytes)
        self._count(SENT, offer.codec, len(answer.payload))


class _Noting:
    """A ``Prepare`` that keeps the swap which it has prepared."""

    def __init__(self, prepare: Prepare) -> None:
        self._prepare = prepare
        self._swap: BothWays | None = None

    async def prepare(self) -> BothWays:
        """Prepare the swap. Raises as the wrapped one."""
        self._swap = await self._prepare()
        return self._swap

    def count(self, count: Count, codec: str) -> None:
        """Count the bytes that were carried."""
        if self._swap is not None:
            count(SENT, codec, self._swap.leaving.gone.sent_bytes)
            count(RECEIVED, codec, self._swap.arriving.came_bytes)


class _NotingCarry:
    """A ``Carry`` that keeps the swap; a ``places.Measured`` with the figures of the wrapped one, if it has them."""

    def __init__(self, carry: Carry) -> None:
        self.moved_bytes = int(getattr(carry, "moved_bytes", 0))
        self.allowed_s = float(getattr(carry, "allowed_s", 0.0))
        self.source = str(getattr(carry, "source", ""))
        self._carry = carry
        self._noting: _Noting | None = None

    async def __call__(self, prepare: Prepare) -> None:
        """Carry the weights. Raises as the wrapped one."""
        self._noting = _Noting(prepare)
        await self._carry(self._noting.prepare)

    def count(self, count: Count, codec: str) -> None:
        """Count the bytes that were carried."""
        if self._noting is not None:
            self._noting.count(count, codec)
