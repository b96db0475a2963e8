"""What carries exchanges between peers, and what answers them at the other side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from gossip_caffe.gossip.message import Message
from gossip_caffe.gossip.shown import Shown
from gossip_caffe.gossip.swap import Swap

Prepare = Callable[[], Coroutine[Any, Any, Swap]]
"""Makes one side ready to swap, once the other is there. May raise Refused."""
Carry = Callable[[Prepare], Awaitable[None]]
"""Carries one side's weights and takes the other's, whole. Raises FramesCorrupt when either does not come whole."""


class Transport(Protocol):
    """Carries whole messages to peers at "host:port". Raises ExchangeFailed when no whole answer came in time."""

    async def exchange(self, address: str, offer: Message, deadline_s: float) -> Message:
        """Deliver an offer and return the answer.

        Raises FramesCorrupt when an answer came that was not whole, Undelivered when the offer surely did not reach
        the partner whole, ExchangeFailed otherwise.
        """
        ...

    def swaps(self, address: str) -> bool:
        """Whether weights can go both ways at once between here and there."""
        ...

    async def swap(self, address: str, offer: Message, prepare: Prepare, deadline_s: float) -> Message:
        """Offer by header alone; once the partner is ready, carry both sides' weights at the same time.

        Returns the answer, which has none, after everything has come whole; a refusal may come before. Raises like
        ``exchange``, and what ``prepare`` raises.
        """
        ...

    async def snapshot(self, address: str, request: Message, deadline_s: float) -> Shown:
        """Ask for the newest weights; nothing changes there.

        Once they begin to come, all are to come within the deadline.
        """
        ...


class Answerer(Protocol):
    """What answers offers and snapshot requests at the other side of a transport."""

    async def receive(
        self, header: Message, payload_bytes: int, read: Callable[[], Awaitable[Message]]
    ) -> Message:
        """The answer to an offer of which only the header has come.

        ``read`` brings the whole offer, or raises FramesCorrupt; it is not called when the header is enough to refuse.
        """
        ...

    async def answer(self, offer: Message) -> Message:
        """The answer to a whole offer, after it was applied; or a refusal."""
        ...

    async def receive_swap(self, header: Message, carry: Carry) -> Message:
        """The answer to an offer by header alone, after what ``carry`` brought was applied; or a refusal."""
        ...

    async def show(self, request: Message) -> Message:
        """The newest weights; or a refusal."""
        ...
