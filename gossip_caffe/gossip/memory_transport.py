"""The network's in-memory twin: peers by address, with delay, loss, repetition and faults on demand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gossip_caffe.clock import Clock
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.message import FramesCorrupt, Message, Undelivered
from gossip_caffe.gossip.shown import Shown, whole
from gossip_caffe.gossip.transport import Answerer, Prepare


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
    to lose it; ``on_the_way`` may change, or lose, each piece of weights that are swapped. With ``weather`` deadlines
    are kept, by its clock: whoever gave up is answered all the same, in vain.
    """

    peers: dict[str, Answerer] = field(default_factory=dict)
    before_offer: Callable[[Message], Awaitable[Message]] | None = None
    before_answer: Callable[[Message], Awaitable[Message]] | None = None
    weather: Weather | None = None
    on_the_way: Callable[[memoryview], memoryview] | None = None
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
        await self.weathered(deadline_s)
        if self.before_offer is not None:
            offer = await self.before_offer(offer)
        if (peer := self.peers.get(address)) is None:
            raise Undelivered(f"nobody answers at {address}")

        async def read() -> Message:
            return offer

        answer = await peer.receive(offer, len(offer.payload), read)
        await self.weathered(deadline_s)
        if self.before_answer is not None:
            answer = await self.before_answer(answer)
        return answer

    def swaps(self, address: str) -> bool:
        """Always."""
        return True

    async def swap(self, address: str, offer: Message, prepare: Prepare, deadline_s: float) -> Message:
        """Deliver a header, then both sides' weights, and return the answer."""
        trip = _Swapping(self, prepare)
        if self.weather is None:
            return await trip.there_and_back(address, offer, 0.0)
        under_way = asyncio.ensure_future(trip.there_and_back(address, offer, deadline_s))
        self.under_way.add(under_way)
        under_way.add_done_callback(self._arrived)
        try:
            async with self.weather.clock.timeout(deadline_s):
                return await asyncio.shield(under_way)
        except TimeoutError:
            raise ExchangeFailed(f"{address}: no answer within {deadline_s:g} s") from None
        finally:
            trip.hung_up = True

    async def weathered(self, deadline_s: float) -> None:
        """Let the weather have its way with one message; raises ExchangeFailed when it is lost."""
        if self.weather is None:
            return
        if self.weather.loses():
            await self.weather.clock.sleep(deadline_s)
            raise ExchangeFailed(f"no answer within {deadline_s:g} s")
        await self.weather.carry()

    async def snapshot(self, address: str, request: Message, deadline_s: float) -> Shown:
        """Ask for the newest weights."""
        if (peer := self.peers.get(address)) is None:
            raise ExchangeFailed(f"nobody answers at {address}")
        if self.weather is None:
            return whole(await peer.show(request))
        try:
            async with self.weather.clock.timeout(deadline_s):
                await self.weathered(deadline_s)
                return whole(await peer.show(request))
        except TimeoutError:
            raise ExchangeFailed(f"{address}: no answer within {deadline_s:g} s") from None


class _Swapping:
    """One swap on its way; once the offerer hung up nothing reaches it any more."""

    def __init__(self, network: MemoryNetwork, prepare: Prepare) -> None:
        self.hung_up = False
        self._network = network
        self._prepare = prepare
        self._deadline_s = 0.0
        self._failure: ExchangeFailed | None = None

    async def there_and_back(self, address: str, offer: Message, deadline_s: float) -> Message:
        network = self._network
        self._deadline_s = deadline_s
        await network.weathered(deadline_s)
        if network.before_offer is not None:
            offer = await network.before_offer(offer)
        if (peer := network.peers.get(address)) is None:
            raise Undelivered(f"nobody answers at {address}")
        answer = await peer.receive_swap(offer, self._carry)
        if self._failure is not None:
            raise self._failure
        await network.weathered(deadline_s)
        if network.before_answer is not None:
            answer = await network.before_answer(answer)
        return answer

    async def _carry(self, prepare: Prepare) -> None:
        network = self._network
        if self.hung_up:
            raise FramesCorrupt("the offerer hung up")
        try:
            there, here = await self._prepare(), await prepare()
            await network.weathered(self._deadline_s)
            if self.hung_up:
                raise FramesCorrupt("the offerer hung up")
            changed = network.on_the_way or (lambda piece: piece)
            # Both have left before either comes: a half takes the place of what has left.
            from_there, from_here = (
                [bytes(piece) for piece in side.leaving.pieces()] for side in (there, here)
            )
            for pieces, side in ((from_there, here), (from_here, there)):
                for piece in pieces:
                    side.arriving.take(changed(memoryview(piece)))
        except ExchangeFailed as error:
            self._failure = error
            raise error if isinstance(error, FramesCorrupt) else FramesCorrupt(error.message) from error
