"""The Protocols of a transport: its calling side (``Transport``) and its answering side (``Answerer``)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Coroutine
from typing import Any, Protocol

from gossip_caffe.gossip.codecs.message import Message
from gossip_caffe.gossip.protocol.snapshot_stream import SnapshotReader
from gossip_caffe.gossip.protocol.swap import BothWays

Prepare = Callable[[], Coroutine[Any, Any, BothWays]]
"""Takes one side's snapshot and makes it ready to swap, once the other side is ready. May raise Refused."""
Carry = Callable[[Prepare], Awaitable[None]]
"""Sends one side's weights and receives the other's, both whole. Raises FramesCorrupt if either is not whole."""


class Transport(Protocol):
    """Carries whole messages to peers at "host:port". Raises ExchangeFailed if no whole answer comes in time."""

    async def exchange(self, address: str, offer: Message, deadline_s: float) -> Message:
        """Deliver an offer and return the answer.

        Raises FramesCorrupt if an answer came that is not whole, Undelivered if the offer certainly did not reach the
        partner whole, ExchangeFailed otherwise.
        """
        ...

    def swaps(self, address: str, *, is_large: bool) -> bool:
        """Whether weights are to travel both ways at once between this peer and the one at ``address``.

        ``is_large``: the weights are so many that this is better than one message with all of them.
        """
        ...

    async def swap(self, address: str, offer: Message, prepare: Prepare, deadline_s: float) -> Message:
        """Offer with a header alone; once the partner is ready, carry both sides' weights at the same time.

        Returns the answer, without weights, after both sides' weights have come whole; a refusal may come earlier.
        Raises the errors of ``exchange`` and of ``prepare``.
        """
        ...

    async def snapshot(self, address: str, request: Message, deadline_s: float) -> SnapshotReader:
        """Ask a peer for its newest weights, without changing anything there.

        The deadline begins when the first of the weights come, and all of them must come within it.
        """
        ...

    async def forget(self, living: Container[str]) -> None:
        """Drop the state of all addresses that are not among ``living``, each once its calls are over."""
        ...


class Answerer(Protocol):
    """Answers the offers and snapshot requests that a transport delivers."""

    async def receive(
        self, header: Message, payload_bytes: int, read: Callable[[], Awaitable[Message]]
    ) -> Message:
        """The answer to an offer whose header has come.

        ``read`` brings the whole offer, or raises FramesCorrupt; it is not called if the header suffices to refuse.
        """
        ...

    async def answer(self, offer: Message) -> Message:
        """The answer to a whole offer, given after the own half was applied; or a refusal."""
        ...

    async def receive_swap(self, header: Message, carry: Carry) -> Message:
        """The answer to an offer without weights: ``carry`` brings them, and the own half is applied; or a refusal."""
        ...

    async def show(self, request: Message) -> Message:
        """The newest weights, as a whole message; or a refusal."""
        ...
