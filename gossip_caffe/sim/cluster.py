"""A simulated cluster: agents on machines of their own, one network, one etcd; peers start, die, and start again."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.gossip.transport import Answerer
from gossip_caffe.job.spec import JobSpec
from gossip_caffe.membership.jobs import create_job
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.memory_etcd import MemoryEtcd
from gossip_caffe.membership.memory_store import MemoryStore
from gossip_caffe.peer.exchanging import pairwise
from gossip_caffe.peer.world import World
from gossip_caffe.shards.planner import Planner
from gossip_caffe.sim.logs import LifeLog, Lines
from gossip_caffe.sim.machine import Machine
from gossip_caffe.sim.network import Network, Weather, Wire
from gossip_caffe.sim.peer import Pace, SimulatedPeer
from gossip_caffe.sim.problem import Points
from gossip_caffe.sim.store_link import StoreLink
from gossip_caffe.sim.virtual_time import VirtualClock
from gossip_caffe.sim.watched import watched
from gossip_caffe.solver.numpy_engine import NumpyEngine

START_AGAIN_S = 2.0
"""How long after a peer ended by an error whoever supervises it starts it again."""


def _say_nothing(line: str) -> None:
    del line


@dataclass(slots=True)
class Running:
    """One life of a name."""

    peer: SimulatedPeer
    machine: Machine
    log: LifeLog


class SimulatedCluster:
    """All of it. To be made and used in a VirtualTimeLoop; ``folder`` takes the checkpoints.

    ``step_s``: how long an iteration takes; ``grain_s``: no sleep of a peer is shorter; ``thin_s``: how far apart
    progress is written down. ``observed``: what was done from outside, and what was left.
    """

    def __init__(
        self,
        spec: JobSpec,
        points: Points,
        folder: Path,
        *,
        seed: int,
        step_s: float,
        grain_s: float,
        thin_s: float = 0.0,
    ) -> None:
        self.spec = spec
        self.clock = VirtualClock()
        self.etcd = MemoryEtcd(self.clock)
        self.network = Network(random.Random(f"{seed}: network"), Weather())
        self.running: dict[str, Running] = {}
        self.logs: dict[str, Lines] = {}
        self.observed: Lines = []
        self.step_s = step_s
        self._points = points
        self._folder = folder
        self._seed = seed
        self._planner = Planner()
        self._grain_s = grain_s
        self._thin_s = thin_s
        self._lives = 0
        self._names = 0
        self._ended: list[SimulatedPeer] = []
        self._watching: set[asyncio.Task[None]] = set()

    async def create_job(self) -> None:
        """Put the job into the store."""
        await create_job(MemoryStore(self.etcd), self.spec)

    @property
    def finished(self) -> bool:
        """Whether the store says that the job is."""
        return JobKeys(self.spec.name).finished in self.etcd.keys

    def note(self, event: str, **fields: object) -> None:
        """Write down what somebody outside did or saw."""
        self.observed.append({"t": round(self.clock.wall(), 6), "event": event, **fields})

    def start(self, name: str = "") -> str:
        """Start a peer: a new one, or one of a name that has ended; its checkpoints are still there."""
        if not name:
            name = f"p{self._names:03d}"
            self._names += 1
        self._lives += 1
        rng = random.Random(f"{self._seed}: {name}, life {self._lives}")
        machine = Machine(name, self._grain_s)
        network = self.network
        log = LifeLog(self.logs.setdefault(name, []), name, machine.clock, self._thin_s)
        store = StoreLink(self.etcd, machine, random.Random(rng.getrandbits(64)))
        folder = CheckpointFolder(self._folder / name / "checkpoints")
        network.machines[name], network.folders[name] = machine, folder
        network.silent.discard(name)

        def serve(answerer: Answerer) -> None:
            network.answerers[name] = answerer

        wire = Wire(network, machine)
        world = World(
            spec=self.spec,
            store=store,
            transport=wire,
            serve=serve,
            folder=folder,
            files=wire,
            clock=machine.clock,
            rng=rng,
            log=log,
            say=_say_nothing,
            strategy=watched(pairwise),
            planner=self._planner,
        )
        peer = SimulatedPeer(world, store, self._points, NumpyEngine, name, Pace(self.step_s))
        self.running[name] = Running(peer, machine, log)
        watching = asyncio.ensure_future(self._see_its_end(name, peer))
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)
        return name

    async def _see_its_end(self, name: str, peer: SimulatedPeer) -> None:
        """As a supervisor: a peer that ends by an error is started again, until the job is finished."""
        failed = False
        try:
            await peer.ended()
        except (
            Exception
        ):  # a process ends by whatever it is; its log says what, and `loud-errors` judges that
            failed = True
        self._bury(name, peer)
        if failed and not self.finished:
            await self.clock.sleep(START_AGAIN_S)
            if name not in self.running and not self.finished:
                self.start(name)

    def _bury(self, name: str, peer: SimulatedPeer) -> None:
        running = self.running.get(name)
        if running is not None and running.peer is peer:
            del self.running[name]
            self.network.answerers.pop(name, None)
            self._ended.append(peer)

    def kill(self, name: str, *, silent: bool = False) -> None:
        """As kill -9 of all its processes; ``silent``: of its machine, so that nobody says that it is gone."""
        running = self.running[name]
        running.log.die()
        running.peer.kill()
        self._bury(name, running.peer)
        if silent:
            self.network.silent.add(name)

    @property
    def training(self) -> list[SimulatedPeer]:
        """Who trains now."""
        return [running.peer for running in self.running.values() if running.peer.trains]

    def close(self) -> None:
        """Let go of memory."""
        for peer in (*self._ended, *(running.peer for running in self.running.values())):
            peer.close()
