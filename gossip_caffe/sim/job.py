"""A whole job on virtual time: agents on one network and one in-memory store, which join, die, and finish the job."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.manifest import MODEL
from gossip_caffe.data.loader import OpenSources
from gossip_caffe.errors import NotFound
from gossip_caffe.gossip.codecs.message import Message
from gossip_caffe.gossip.protocol.transport import Answerer
from gossip_caffe.gossip.transport.memory_transport import MemoryNetwork, NetworkConditions
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.jobs import create_job
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.observe.log.events import MemoryLog
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.core.strategy import MakeStrategy
from gossip_caffe.peer.sharing.pairwise import pairwise
from gossip_caffe.sim.faults.poisoning import Poisoners
from gossip_caffe.sim.peer import MakeEngine, Pace, SimulatedPeer, SteppedProbe, address_of
from gossip_caffe.sim.virtual_time import VirtualClock

MESSAGE_S = (0.005, 0.02)
"""The range of the latency of an offer, and of an answer (s)."""


@dataclass(slots=True)
class Carried:
    """Counts the messages that the network carried, and the bytes of their weights without headers."""

    messages: int = 0
    payload_bytes: int = 0

    async def note(self, message: Message) -> Message:
        """Count a message, and return it."""
        self.messages += bool(message.payload)
        self.payload_bytes += len(message.payload)
        return message


class Folders:
    """Reads the checkpoint files of other peers, while these live."""

    def __init__(self) -> None:
        self.by_address: dict[str, CheckpointFolder] = {}

    async def pull(
        self, address: str, job: str, checkpoint: str, file: str, offset: int
    ) -> AsyncIterator[bytes]:
        """The file's bytes from an offset on, in pieces."""
        del job
        if (folder := self.by_address.get(address)) is None:
            raise NotFound(f"no peer answers at {address}")
        _, pieces = folder.open_file(checkpoint, file, offset)
        async for piece in pieces:
            yield piece


def _say_nothing(line: str) -> None:
    del line


class SimulatedJob:
    """One job. ``seed`` determines everything random; ``message_s``: the range of the messages' latency (s).

    ``poisoners``: the machines whose offers and answers are spoilt. ``authenticated``: the peers are as with
    certificates. Create and use it in a VirtualTimeLoop.
    """

    def __init__(
        self,
        spec: JobSpec,
        folder: Path,
        make_engine: MakeEngine,
        *,
        seed: int,
        message_s: tuple[float, float] = MESSAGE_S,
        strategy: MakeStrategy = pairwise,
        poisoners: Poisoners | None = None,
        authenticated: bool = False,
    ) -> None:
        self.spec = spec
        self.clock = VirtualClock()
        self.carried = Carried()
        self.peers: dict[str, SimulatedPeer] = {}
        self.logs: dict[str, MemoryLog] = {}
        self._folder = folder
        self._make_engine = make_engine
        self._seed = seed
        self._strategy = strategy
        self._etcd = MemoryEtcd(self.clock)
        self._files = Folders()
        self._poisoners = poisoners
        self._authenticated = authenticated
        self._network = MemoryNetwork(
            before_offer=self._on_the_way,
            before_answer=self._on_the_way,
            weather=NetworkConditions(self.clock, random.Random(f"{seed}: weather"), message_s),
            swaps_weights=False,  # so that all bytes are counted, and can be spoilt
        )
        self._sources = OpenSources(spec.data, spec.settings.seed)
        self._killed: set[str] = set()
        self._began = self.clock.monotonic()

    async def _on_the_way(self, message: Message) -> Message:
        if self._poisoners is not None:
            message = self._poisoners.spoilt(message.peer, message)
        return await self.carried.note(message)

    @property
    def passed_s(self) -> float:
        """Virtual seconds since the job was created."""
        return self.clock.monotonic() - self._began

    @property
    def living(self) -> list[str]:
        """The names of the peers that were not killed."""
        return [name for name in self.peers if name not in self._killed]

    async def start(self, name: str, pace: Pace) -> SimulatedPeer:
        """Start a peer under a new name."""
        store = MemoryStore(self._etcd)
        await create_job(store, self.spec)
        folder = self._files.by_address[address_of(name)] = CheckpointFolder(
            self._folder / name / "checkpoints"
        )
        self.logs[name] = log = MemoryLog()

        def serve(answerer: Answerer) -> None:
            self._network.peers[address_of(name)] = answerer

        world = PeerDependencies(
            spec=self.spec,
            store=store,
            transport=self._network,
            serve=serve,
            folder=folder,
            files=self._files,
            clock=self.clock,
            rng=random.Random(f"{self._seed}: {name}"),
            log=log,
            say=_say_nothing,
            strategy=self._strategy,
            probe=SteppedProbe(self.spec, self._make_engine, pace, self.clock),
            authenticated=self._authenticated,
        )
        peer = SimulatedPeer(world, store, self._sources, self._make_engine, name, pace)
        self.peers[name] = peer
        return peer

    def kill(self, name: str) -> None:
        """Kill a peer like kill -9 of all its processes, and like the failure of its machine."""
        self._killed.add(name)
        self._network.peers.pop(address_of(name), None)
        self._network.hang_up(address_of(name))
        self._files.by_address.pop(address_of(name), None)
        self.peers[name].kill()

    async def finished(self) -> Path:
        """Wait until every peer has left. Returns the model of the job's last checkpoint.

        Raises the error that ended a peer.
        """
        seen: set[str] = set()
        while waiting := [name for name in self.living if name not in seen]:
            await asyncio.gather(*(self.peers[name].ended() for name in waiting))
            seen.update(waiting)
        item = await MemoryStore(self._etcd).get(JobKeys(self.spec.name).finished)
        if item is None:
            raise NotFound("every peer has left, and the job is not finished")
        checkpoint = json.loads(item.value)["checkpoint"]
        for folder in self._files.by_address.values():
            if checkpoint in folder.ids():
                return folder.path(checkpoint, MODEL)
        raise NotFound(f"no living peer has the last checkpoint {checkpoint}")

    def close(self) -> None:
        """Release memory and files."""
        self._sources.close()
        for peer in self.peers.values():
            peer.close()
