"""The network's in-memory twin: peers by address, with faults on demand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.message import Answerer, Message


@dataclass(slots=True)
class MemoryNetwork:
    """All peers of a network.

    ``before_offer`` and ``before_answer`` run on the way; they may wait, change the message, or raise ExchangeFailed
    to lose it.
    """

    peers: dict[str, Answerer] = field(default_factory=dict)
    before_offer: Callable[[Message], Awaitable[Message]] | None = None
    before_answer: Callable[[Message], Awaitable[Message]] | None = None

    async def exchange(self, address: str, offer: Message, deadline_s: float) -> Message:
        """Deliver an offer and return the answer; the deadline is the hooks' business."""
        del deadline_s
        if self.before_offer is not None:
            offer = await self.before_offer(offer)
        if address not in self.peers:
            raise ExchangeFailed(f"nobody answers at {address}")
        answer = await self.peers[address].answer(offer)
        if self.before_answer is not None:
            answer = await self.before_answer(answer)
        return answer

    async def snapshot(self, address: str, request: Message, deadline_s: float) -> Message:
        """Ask for the newest weights."""
        del deadline_s
        if address not in self.peers:
            raise ExchangeFailed(f"nobody answers at {address}")
        return await self.peers[address].show(request)
