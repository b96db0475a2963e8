"""The network's in-memory twin: peers by address, with delay, loss, repetition and faults on demand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gossip_caffe.clock import Clock
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.message import Answerer, Message, Undelivered


@dataclass(slots=True)
class Weather:
    """What the network does to messages, at random: offers and answers alike."""

    clock: Clock
    rng: random.Random
    delay_s: tuple[float, float] = (0.0, 0.0)
    loss: float = 0.0
    repetition: float = 0.0

    async def carry(self) -> None:
        """Take a message's time."""
        await self.clock.sleep(self.rng.uniform(*self.delay_s))

    def loses(self) -> bool:
        """Whether this message never arrives."""
        return self.rng.random() < self.loss

    def repeats(self) -> bool:
        """Whether this offer arrives twice."""
        return self.rng.random() < self.repetition


@dataclass(slots=True)
class MemoryNetwork:
    """All peers of a network.

    ``before_offer`` and ``before_answer`` run on the way; they may wait, change the message, or raise ExchangeFailed
    to lose it. With ``weather`` deadlines are kept, by its clock: whoever gave up is answered all the same, in vain.
    """

    peers: dict[str, Answerer] = field(default_factory=dict)
    before_offer: Callable[[Message], Awaitable[Message]] | None = None
    before_answer: Callable[[Message], Awaitable[Message]] | None = None
    weather: Weather | None = None
    under_way: set[asyncio.Task[Message]] = field(default_factory=set)

    async def exchange(self, address: str, offer: Message, deadline_s: float) -> Message:
        """Deliver an offer and return the answer."""
        if self.weather is None:
            return await self._there_and_back(address, offer)
        if self.weather.repeats():
            self._send(address, offer, deadline_s)
        trip = self._send(address, offer, deadline_s)
        try:
            async with self.weather.clock.timeout(deadline_s):
                return await asyncio.shield(trip)
        except TimeoutError:
            raise ExchangeFailed(f"{address}: no answer within {deadline_s:g} s") from None

    def _send(self, address: str, offer: Message, deadline_s: float) -> asyncio.Task[Message]:
        trip = asyncio.ensure_future(self._there_and_back(address, offer, deadline_s))
        self.under_way.add(trip)
        trip.add_done_callback(self._arrived)
        return trip

    def _arrived(self, trip: asyncio.Task[Message]) -> None:
        self.under_way.discard(trip)
        if not trip.cancelled():
            trip.exception()  # whoever waited has it; nobody may

    async def _there_and_back(self, address: str, offer: Message, deadline_s: float = 0.0) -> Message:
        await self._weathered(deadline_s)
        if self.before_offer is not None:
            offer = await self.before_offer(offer)
        if (peer := self.peers.get(address)) is None:
            raise Undelivered(f"nobody answers at {address}")

        async def read() -> Message:
            return offer

        answer = await peer.receive(offer, len(offer.payload), read)
        await self._weathered(deadline_s)
        if self.before_answer is not None:
            answer = await self.before_answer(answer)
        return answer

    async def _weathered(self, deadline_s: float) -> None:
        if self.weather is None:
            return
        if self.weather.loses():
            await self.weather.clock.sleep(deadline_s)
            raise ExchangeFailed(f"no answer within {deadline_s:g} s")
        await self.weather.carry()

    async def snapshot(self, address: str, request: Message, deadline_s: float) -> Message:
        """Ask for the newest weights."""
        if (peer := self.peers.get(address)) is None:
            raise ExchangeFailed(f"nobody answers at {address}")
        if self.weather is None:
            return await peer.show(request)
        try:
            async with self.weather.clock.timeout(deadline_s):
                await self._weathered(deadline_s)
                return await peer.show(request)
        except TimeoutError:
            raise ExchangeFailed(f"{address}: no answer within {deadline_s:g} s") from None
