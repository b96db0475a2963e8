"""The in-memory twin of the transport: peers by address, with delay, loss, repetition and faults on demand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass, field

from gossip_caffe.background import DetachedTasks
from gossip_caffe.clock import Clock
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.codecs.message import FramesCorrupt, Message, Undelivered
from gossip_caffe.gossip.protocol.snapshot_stream import SnapshotReader, whole
from gossip_caffe.gossip.protocol.transport import Answerer, Prepare
from gossip_caffe.gossip.rounds.local_link import LocalLink
from gossip_caffe.gossip.rounds.words import RoundLink, answerer_of


@dataclass(slots=True)
class NetworkConditions:
    """Random faults of offers and answers: a delay from ``delay_s``, and the probabilities of loss and repetition."""

    clock: Clock
    rng: random.Random
    delay_s: tuple[float, float] = (0.0, 0.0)
    loss: float = 0.0
    repetition: float = 0.0

    async def carry(self) -> None:
        """Wait for the delay of one message."""
        await self.clock.sleep(self.rng.uniform(*self.delay_s))

    def loses(self) -> bool:
        """Draw whether this message is lost."""
        return self.rng.random() < self.loss

    def repeats(self) -> bool:
        """Draw whether this offer arrives twice."""
        return self.rng.random() < self.repetition


@dataclass(slots=True)
class MemoryNetwork:
    """A network of peers in one process, by address.

    ``before_offer`` and ``before_answer`` are called while a message is carried; they may wait, change the message, or
    raise ExchangeFailed to lose it. ``on_the_way`` may change, or lose, each piece of swapped weights. With
    ``weather``, deadlines hold, by its clock; an offer whose sender gave up is still delivered, and its answer is
    dropped. ``swaps_weights``: large weights travel both ways at once; else in the messages, where ``before_offer`` and
    ``before_answer`` see them.
    """

    peers: dict[str, Answerer] = field(default_factory=dict)
    before_offer: Callable[[Message], Awaitable[Message]] | None = None
    before_answer: Callable[[Message], Awaitable[Message]] | None = None
    weather: NetworkConditions | None = None
    on_the_way: Callable[[memoryview], memoryview] | None = None
    swaps_weights: bool = True
    under_way: DetachedTasks = field(default_factory=DetachedTasks)
    streams: dict[str, list[LocalLink]] = field(default_factory=dict)

    async def exchange(self, address: str, offer: Message, deadline_s: float) -> Message:
        """Deliver an offer and return the answer; see ``Transport``."""
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
        return self.under_way.begin(
            self._there_and_back(address, offer, deadline_s), f"an offer to {address}"
        )

    async def _there_and_back(self, address: str, offer: Message, deadline_s: float = 0.0) -> Message:
        await self.weathered(deadline_s)
        if self.before_offer is not None:
            offer = await self.before_offer(offer)
        if (peer := self.peers.get(address)) is None:
            raise Undelivered(f"no peer answers at {address}")

        async def read() -> Message:
            return offer

        answer = await peer.receive(offer, len(offer.payload), read)
        await self.weathered(deadline_s)
        if self.before_answer is not None:
            answer = await self.before_answer(answer)
        return answer

    def swaps(self, address: str, *, is_large: bool) -> bool:
        """Whether the weights are large: every pair of peers can swap them, unless ``swaps_weights`` is False."""
        return is_large and self.swaps_weights

    async def swap(self, address: str, offer: Message, prepare: Prepare, deadline_s: float) -> Message:
        """Deliver a header, then both sides' weights, and return the answer; see ``Transport``."""
        trip = _Swapping(self, prepare)
        if self.weather is None:
            return await trip.there_and_back(address, offer, 0.0)
        under_way = self.under_way.begin(
            trip.there_and_back(address, offer, deadline_s), f"a swap with {address}"
        )
        try:
            async with self.weather.clock.timeout(deadline_s):
                return await asyncio.shield(under_way)
        except TimeoutError:
            raise ExchangeFailed(f"{address}: no answer within {deadline_s:g} s") from None
        finally:
            trip.hung_up = True

    async def weathered(self, deadline_s: float) -> None:
        """Apply the ``weather`` to one message; raises ExchangeFailed if the message is lost."""
        if self.weather is None:
            return
        if self.weather.loses():
            await self.weather.clock.sleep(deadline_s)
            raise ExchangeFailed(f"no answer within {deadline_s:g} s")
        await self.weather.carry()

    async def attend(self, address: str) -> RoundLink:
        """Open a stream of the words of rounds to a peer. ``hang_up`` breaks it."""
        await self.weathered(0.0)
        if (answerer := answerer_of(self.peers.get(address))) is None:
            raise Undelivered(f"no peer takes part in rounds at {address}")
        mine, theirs = LocalLink.pair()
        self.streams.setdefault(address, []).append(theirs)

        async def served() -> None:
            try:
                await answerer.attend(theirs)
            finally:
                theirs.close()

        self.under_way.begin(served(), f"a stream of words to {address}")
        return mine

    def hang_up(self, address: str) -> None:
        """Break the streams of words to a peer that has died. Those from it break when its tasks end."""
        for stream in self.streams.pop(address, ()):
            stream.close()

    async def snapshot(self, address: str, request: Message, deadline_s: float) -> SnapshotReader:
        """Ask a peer for its newest weights; see ``Transport``."""
        if (peer := self.peers.get(address)) is None:
            raise ExchangeFailed(f"no peer answers at {address}")
        if self.weather is None:
            return whole(await peer.show(request))
        try:
            async with self.weather.clock.timeout(deadline_s):
                await self.weathered(deadline_s)
                return whole(await peer.show(request))
        except TimeoutError:
            raise ExchangeFailed(f"{address}: no answer within {deadline_s:g} s") from None

    async def forget(self, living: Container[str]) -> None:
        """Do nothing: this network keeps no state of addresses."""
        del living


class _Swapping:
    """One swap in progress. ``hung_up``: the offerer has ended its call, and nothing more reaches it."""

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
            raise Undelivered(f"no peer answers at {address}")
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
            # Both snapshots are copied before either is received, because a half overwrites the own snapshot.
            from_there, from_here = (
                [bytes(piece) for piece in side.leaving.pieces()] for side in (there, here)
            )
            for pieces, side in ((from_there, here), (from_here, there)):
                for piece in pieces:
                    side.arriving.take(changed(memoryview(piece)))
        except ExchangeFailed as error:
            self._failure = error
            raise error if isinstance(error, FramesCorrupt) else FramesCorrupt(error.message) from error
