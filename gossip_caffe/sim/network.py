"""The network of a simulated job: who reaches whom, and what happens to messages on the way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace

from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.errors import CheckpointRefused, ExchangeFailed, NotFound
from gossip_caffe.gossip.file_transfer import PULL_SILENCE_S
from gossip_caffe.gossip.message import FramesCorrupt, Message, Undelivered
from gossip_caffe.gossip.shown import Shown, whole
from gossip_caffe.gossip.transport import Answerer, Prepare
from gossip_caffe.sim.machine import Machine
from gossip_caffe.sim.virtual_time import sleep

LATE = 30.0
"""A message that is overtaken takes so many times as long."""
HEADER_BYTES = 200
"""What a message has besides its payload: names, the layout's fingerprint, checksums, and what gRPC adds."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What may happen to any message: how long it takes, and the shares that are lost, come twice, late or torn."""

    delay_s: tuple[float, float] = (0.005, 0.02)
    loss: float = 0.0
    repetition: float = 0.0
    late: float = 0.0
    torn: float = 0.0


class Network:
    """All machines of a job.

    ``cut``: pairs (from, to) between which nothing arrives; ``silent``: gone, and no host says so.
    """

    def __init__(self, rng: random.Random, weather: Weather) -> None:
        self.weather = weather
        self.machines: dict[str, Machine] = {}
        self.answerers: dict[str, Answerer] = {}
        self.folders: dict[str, CheckpointFolder] = {}
        self.cut: set[tuple[str, str]] = set()
        self.silent: set[str] = set()
        self.under_way: set[asyncio.Task[Message]] = set()
        self._rng = rng

    def happens(self, share: float) -> bool:
        """Whether something of that probability happens now."""
        return share > 0 and self._rng.random() < share

    def separate(self, one: Iterable[str], other: Iterable[str], *, both_ways: bool = True) -> None:
        """Cut all links from one side to the other, and with ``both_ways`` those back."""
        others = list(other)
        for here in one:
            for there in others:
                self.cut.add((here, there))
                if both_ways:
                    self.cut.add((there, here))

    def reaches(self, sender: str, receiver: str) -> bool:
        """Whether what leaves one machine arrives at another."""
        return (sender, receiver) not in self.cut and receiver not in self.silent

    async def carry(self, sender: str, receiver: str, deadline_s: float, payload_bytes: int = 0) -> None:
        """Take one message over, after those that its sender sent before it.

        Raises ExchangeFailed, once the deadline is over, when it does not arrive.
        """
        weather = self.weather
        seconds = self._rng.uniform(*weather.delay_s)
        lost = self.happens(weather.loss)
        if self.happens(weather.late):
            seconds *= LATE
        link = self.machines[sender].link
        if not link.is_free:
            if not await link.leave(HEADER_BYTES + payload_bytes, deadline_s):
                raise _unanswered(receiver, deadline_s)
            lost = lost or sender in self.silent
        await sleep(seconds)
        if lost or not self.reaches(sender, receiver):
            await sleep(deadline_s)
            raise _unanswered(receiver, deadline_s)
        machine = self.machines.get(receiver)
        if machine is not None and machine.frozen:
            await machine.awake()

    def answerer(self, address: str) -> Answerer:
        """Who answers there. Raises Undelivered when nobody does."""
        if (answerer := self.answerers.get(address)) is None:
            raise Undelivered(f"nobody answers at {address}")
        return answerer


class Wire:
    """One peer's ``Transport`` and ``FileClient``: its end of the network."""

    def __init__(self, network: Network, machine: Machine) -> None:
        self._network = network
        self._machine = machine

    async def exchange(self, address: str, offer: Message, deadline_s: float) -> Message:
        """Deliver an offer, perhaps twice, and return the answer."""
        network = self._network
        if network.happens(network.weather.repetition):
            self._send(address, offer, deadline_s)
        trip = self._send(address, offer, deadline_s)
        try:
            async with self._machine.clock.timeout(deadline_s):
                return await asyncio.shield(trip)
        except TimeoutError:
            raise _unanswered(address, deadline_s) from None

    def _send(self, address: str, offer: Message, deadline_s: float) -> asyncio.Task[Message]:
        trip = asyncio.ensure_future(self._there_and_back(address, offer, deadline_s))
        self._network.under_way.add(trip)
        trip.add_done_callback(self._arrived)
        return trip

    def _arrived(self, trip: asyncio.Task[Message]) -> None:
        self._network.under_way.discard(trip)
        if not trip.cancelled():
            trip.exception()  # whoever waited has it; nobody may

    async def _there_and_back(self, address: str, offer: Message, deadline_s: float) -> Message:
        network, here = self._network, self._machine.name
        await network.carry(here, address, deadline_s, len(offer.payload))
        torn = network.happens(network.weather.torn)

        async def read() -> Message:
            if torn:
                raise FramesCorrupt("the stream ended in the middle of a frame")
            return offer

        answer = await network.answerer(address).receive(
            replace(offer, payload=b""), len(offer.payload), read
        )
        await network.carry(address, here, deadline_s, len(answer.payload))
        if network.happens(network.weather.torn):
            raise FramesCorrupt("the stream ended in the middle of a frame")
        return answer

    def swaps(self, address: str) -> bool:
        """Never: models are small here."""
        del address
        return False

    async def swap(self, address: str, offer: Message, prepare: Prepare, deadline_s: float) -> Message:
        """Not to be called."""
        raise ExchangeFailed(f"{address}: weights are not swapped here")

    async def snapshot(self, address: str, request: Message, deadline_s: float) -> Shown:
        """Ask for the newest weights."""
        network, here = self._network, self._machine.name
        try:
            async with self._machine.clock.timeout(deadline_s):
                await network.carry(here, address, deadline_s)
                answer = await network.answerer(address).show(request)
                await network.carry(address, here, deadline_s, len(answer.payload))
                return whole(answer)
        except TimeoutError:
            raise _unanswered(address, deadline_s) from None

    async def pull(
        self, address: str, job: str, checkpoint: str, file: str, offset: int
    ) -> AsyncIterator[bytes]:
        """A checkpoint's file; in bad weather a byte of it may be another one."""
        del job
        network, here = self._network, self._machine.name
        try:
            await network.carry(here, address, 2.0)
        except ExchangeFailed as error:
            raise NotFound(error.message) from None
        if (folder := network.folders.get(address)) is None or address not in network.answerers:
            raise NotFound(f"nobody answers at {address}")
        holder = network.machines[address]
        _, pieces = folder.open_file(checkpoint, file, offset)
        async for piece in pieces:
            if not holder.link.is_free:
                await self._until_left(holder, len(piece))
            yield bytes([piece[0] ^ 1]) + piece[1:] if network.happens(network.weather.torn) else piece

    async def _until_left(self, holder: Machine, piece_bytes: int) -> None:
        """Wait for a piece of a file. Raises CheckpointRefused when it does not come."""
        network, address = self._network, holder.name
        try:
            async with self._machine.clock.timeout(PULL_SILENCE_S):
                sent = await holder.link.leave(HEADER_BYTES + piece_bytes, PULL_SILENCE_S)
                if not sent or address in network.silent or not network.reaches(address, self._machine.name):
                    await sleep(PULL_SILENCE_S)
        except TimeoutError:
            raise CheckpointRefused(f"{address} sent nothing for {PULL_SILENCE_S:g} s") from None
        if network.machines[address] is not holder or address not in network.answerers:
            raise CheckpointRefused(f"{address} broke off")


def _unanswered(address: str, deadline_s: float) -> ExchangeFailed:
    return ExchangeFailed(f"{address}: no answer within {deadline_s:g} s")
