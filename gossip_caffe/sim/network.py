"""The network of a simulated job: which machines reach each other, and faults of messages on the way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from gossip_caffe.background import DetachedTasks
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.errors import CheckpointRefused, ExchangeFailed, GossipCaffeError, NotFound
from gossip_caffe.gossip.codecs.message import FramesCorrupt, Message, Undelivered
from gossip_caffe.gossip.protocol.snapshot_stream import SnapshotReader, whole
from gossip_caffe.gossip.protocol.transport import Answerer, Prepare
from gossip_caffe.gossip.rounds.words import RoundLink, Word, answerer_of
from gossip_caffe.gossip.transport.file_transfer import PULL_SILENCE_S
from gossip_caffe.sim.faults.poisoning import Poisoners
from gossip_caffe.sim.faults.tripwires import is_on_purpose
from gossip_caffe.sim.machine import Machine
from gossip_caffe.sim.virtual_time import sleep

LATE = 30.0
"""The factor on the latency of a message that is overtaken."""
ATTEND_S = 2.0
"""The deadline of the first word to a peer."""
SILENCE_S = 5.0
"""A stream over which nothing can be sent for so long is broken."""
STREAM_LOOK_S = 0.5
HEADER_BYTES = 200
"""The bytes of a message besides its payload: names, the layout's fingerprint, checksums, and gRPC's headers."""


@dataclass(frozen=True, slots=True)
class LinkConditions:
    """The faults of all messages: the latency, and the shares that are lost, duplicated, late or torn."""

    delay_s: tuple[float, float] = (0.005, 0.02)
    loss: float = 0.0
    repetition: float = 0.0
    late: float = 0.0
    torn: float = 0.0


class SimulatedNetwork:
    """The network of all machines of a job.

    ``cut``: pairs (from, to) between which no message arrives. ``silent``: machines that have failed, without a host
    that reports it. ``poisoners``: the machines whose weights are spoilt on their way.
    """

    def __init__(
        self, rng: random.Random, weather: LinkConditions, poisoners: Poisoners | None = None
    ) -> None:
        self.weather = weather
        self.poisoners = poisoners if poisoners is not None else Poisoners(rng)
        self.machines: dict[str, Machine] = {}
        self.answerers: dict[str, Answerer] = {}
        self.folders: dict[str, CheckpointFolder] = {}
        self.cut: set[tuple[str, str]] = set()
        self.silent: set[str] = set()
        self.under_way = DetachedTasks()
        self._rng = rng
        self._streams: dict[SimulatedStream, None] = {}

    def happens(self, share: float) -> bool:
        """True with the given probability."""
        return share > 0 and self._rng.random() < share

    def separate(self, one: Iterable[str], other: Iterable[str], *, both_ways: bool = True) -> None:
        """Cut all links from one side to the other; with ``both_ways`` also those back."""
        others = list(other)
        for here in one:
            for there in others:
                self.cut.add((here, there))
                if both_ways:
                    self.cut.add((there, here))

    def reaches(self, sender: str, receiver: str) -> bool:
        """True if messages of the sender arrive at the receiver."""
        return (sender, receiver) not in self.cut and receiver not in self.silent

    async def carry(self, sender: str, receiver: str, deadline_s: float, payload_bytes: int = 0) -> None:
        """Carry one message, after those that its sender sent before it.

        Raises ExchangeFailed, after the deadline, when the message does not arrive.
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

    def join(self, here: Machine, there: Machine) -> tuple[SimulatedStream, SimulatedStream]:
        """Both ends of a new stream of words between two machines."""
        one, other = SimulatedStream(self, here, there), SimulatedStream(self, there, here)
        one.other, other.other = other, one
        self._streams |= {one: None, other: None}
        return one, other

    def forget_stream(self, stream: SimulatedStream) -> None:
        """Forget an end of a stream that is broken."""
        self._streams.pop(stream, None)

    def hang_up(self, name: str, machine: Machine) -> None:
        """Break the streams of a peer that has ended: its kernel says so, unless its machine is silent."""
        for stream in list(self._streams):
            if stream.here is machine:
                stream.close()
        del name

    def delay_s(self) -> float:
        """The delay of one message, longer if it is lost or late: a stream sends what is lost again."""
        seconds = self._rng.uniform(*self.weather.delay_s)
        if self.happens(self.weather.loss) or self.happens(self.weather.late):
            seconds *= LATE
        return seconds

    def answerer(self, address: str) -> Answerer:
        """The peer that answers at an address. Raises Undelivered when no peer does."""
        if (answerer := self.answerers.get(address)) is None:
            raise Undelivered(f"no peer answers at {address}")
        return answerer


class SimulatedStream:
    """One end of a stream of words. Words arrive in order; what is lost is sent again. It breaks if a side is gone.

    A side that cannot be reached any more is noticed after ``SILENCE_S``, as gRPC notices it.
    """

    other: SimulatedStream

    def __init__(self, network: SimulatedNetwork, here: Machine, there: Machine) -> None:
        self.here = here
        self.broken = False
        self._there = there
        self._network = network
        self._leaving: asyncio.Queue[Word | None] = asyncio.Queue()
        self._arrived: asyncio.Queue[Word | None] = asyncio.Queue()
        self._carrying = network.under_way.begin(self._carry(), f"words from {here.name} to {there.name}")

    async def send(self, word: Word) -> None:
        """Send a word."""
        if self.broken:
            raise ExchangeFailed(f"{self._there.name}: the stream is broken")
        self._leaving.put_nowait(word)

    async def receive(self) -> Word:
        """Wait for the next word."""
        word = None if self.broken and self._arrived.empty() else await self._arrived.get()
        if self.here.frozen:
            await self.here.awake()
        if word is None:
            self.broken = True
            raise ExchangeFailed(f"{self._there.name}: the stream is broken")
        return word

    def close(self) -> None:
        """End the stream; the other side notices."""
        self._leaving.put_nowait(None)
        self._break()

    def _break(self) -> None:
        if not self.broken:
            self.broken = True
            self._arrived.put_nowait(None)
            self._network.forget_stream(self)

    async def _carry(self) -> None:
        network, silent_s = self._network, 0.0
        while True:
            word = await self._leaving.get()
            while not network.reaches(self.here.name, self._there.name) or self.here.name in network.silent:
                await sleep(STREAM_LOOK_S)
                silent_s += STREAM_LOOK_S
                if silent_s >= SILENCE_S:
                    self._break()
                    self.other._break()
                    return
            silent_s = 0.0
            await sleep(network.delay_s())
            if word is None:
                self.other._break()
                return
            if not self.other.broken:
                self.other._arrived.put_nowait(word)


class Wire:
    """One peer's ``Transport`` and ``FileClient``: its connection to the network."""

    def __init__(self, network: SimulatedNetwork, machine: Machine) -> None:
        self._network = network
        self._machine = machine

    async def exchange(self, address: str, offer: Message, deadline_s: float) -> Message:
        """Deliver an offer, perhaps twice, and return the answer."""
        network, address = self._network, machine_at(address)
        if network.happens(network.weather.repetition):
            self._send(address, offer, deadline_s)
        trip = self._send(address, offer, deadline_s)
        try:
            async with self._machine.clock.timeout(deadline_s):
                return await asyncio.shield(trip)
        except TimeoutError:
            raise _unanswered(address, deadline_s) from None

    def _send(self, address: str, offer: Message, deadline_s: float) -> asyncio.Task[Message]:
        trip = self._there_and_back(address, offer, deadline_s)
        return self._network.under_way.begin(trip, f"an offer to {address}")

    async def _there_and_back(self, address: str, offer: Message, deadline_s: float) -> Message:
        network, here = self._network, self._machine.name
        offer = network.poisoners.spoilt(here, offer)
        await network.carry(here, address, deadline_s, len(offer.payload))
        torn = network.happens(network.weather.torn)

        async def read() -> Message:
            if torn:
                raise FramesCorrupt("the stream ended in the middle of a frame")
            return offer

        with _defects_there(address, ExchangeFailed):
            answer = await network.answerer(address).receive(
                replace(offer, payload=b""), len(offer.payload), read
            )
        answer = network.poisoners.spoilt(address, answer)
        await network.carry(address, here, deadline_s, len(answer.payload))
        if network.happens(network.weather.torn):
            raise FramesCorrupt("the stream ended in the middle of a frame")
        return answer

    def swaps(self, address: str, *, is_large: bool) -> bool:
        """Always False: the simulated models are small, so weights travel in the messages."""
        del address, is_large
        return False

    async def swap(self, address: str, offer: Message, prepare: Prepare, deadline_s: float) -> Message:
        """Must not be called, because ``swaps`` is False."""
        raise ExchangeFailed(f"{address}: weights are not swapped here")

    async def attend(self, address: str) -> RoundLink:
        """Open a stream of the words of rounds to a peer."""
        network, here, address = self._network, self._machine.name, machine_at(address)
        await network.carry(here, address, ATTEND_S)
        answerer = answerer_of(network.answerer(address))
        if answerer is None or (there := network.machines.get(address)) is None:
            raise Undelivered(f"no peer takes part in rounds at {address}")
        mine, theirs = network.join(self._machine, there)

        async def served() -> None:
            try:
                with _defects_there(address, ExchangeFailed):
                    await answerer.attend(theirs)
            finally:
                theirs.close()

        network.under_way.begin(served(), f"a stream of words to {address}")
        return mine

    async def snapshot(self, address: str, request: Message, deadline_s: float) -> SnapshotReader:
        """Request a peer's newest weights."""
        network, here, address = self._network, self._machine.name, machine_at(address)
        try:
            async with self._machine.clock.timeout(deadline_s):
                await network.carry(here, address, deadline_s)
                with _defects_there(address, ExchangeFailed):
                    answer = await network.answerer(address).show(request)
                answer = network.poisoners.spoilt(address, answer)
                await network.carry(address, here, deadline_s, len(answer.payload))
                return whole(answer)
        except TimeoutError:
            raise _unanswered(address, deadline_s) from None

    async def forget(self, living: Container[str]) -> None:
        """Does nothing: this client keeps no connections."""
        del living

    async def pull(
        self, address: str, job: str, checkpoint: str, file: str, offset: int
    ) -> AsyncIterator[bytes]:
        """A checkpoint's file from an offset on, in pieces. In a storm one of its bytes may be wrong."""
        del job
        network, here, address = self._network, self._machine.name, machine_at(address)
        try:
            await network.carry(here, address, 2.0)
        except ExchangeFailed as error:
            raise NotFound(error.message) from None
        if (folder := network.folders.get(address)) is None or address not in network.answerers:
            raise NotFound(f"no peer answers at {address}")
        holder = network.machines[address]
        with _defects_there(address, CheckpointRefused):
            _, pieces = folder.open_file(checkpoint, file, offset)
        async for piece in pieces:
            if not holder.link.is_free:
                await self._until_left(holder, len(piece))
            yield bytes([piece[0] ^ 1]) + piece[1:] if network.happens(network.weather.torn) else piece

    async def _until_left(self, holder: Machine, piece_bytes: int) -> None:
        """Wait until a piece of a file has left. Raises CheckpointRefused when it does not."""
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


@contextmanager
def _defects_there(address: str, kind: type[GossipCaffeError]) -> Iterator[None]:
    """Turn an unexpected error of the called peer into a failed call here, as gRPC does."""
    try:
        yield
    except Exception as error:
        if not is_on_purpose(error):
            raise  # a defect of the product or of the simulator
        raise kind(f"{address}: unknown {error}") from None


def machine_at(address: str) -> str:
    """The name of the machine at an address: each machine has one port."""
    return address.rpartition(":")[0] or address


def _unanswered(address: str, deadline_s: float) -> ExchangeFailed:
    return ExchangeFailed(f"{address}: no answer within {deadline_s:g} s")
