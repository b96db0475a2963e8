"""A simulated cluster: agents on machines of their own, one network, one etcd. Peers start, die, and start again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gossip_caffe.background import DetachedTasks
from gossip_caffe.checkpoint.ending import end_of, named_end
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.gossip.protocol.transport import Answerer
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.jobs import create_job
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.observe.log.runs import LogInRuns
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.sharing.strategies import strategy_of
from gossip_caffe.shards.planner import Planner
from gossip_caffe.sim.faults.faults import Kind
from gossip_caffe.sim.faults.foreign_write import ForeignWriter
from gossip_caffe.sim.faults.poisoning import Poison, Poisoners
from gossip_caffe.sim.faults.tripwires import Trip, Tripwires
from gossip_caffe.sim.logs import LifeLog, Lines
from gossip_caffe.sim.machine import Machine
from gossip_caffe.sim.network import LinkConditions, SimulatedNetwork, Wire
from gossip_caffe.sim.peer import Pace, SimulatedPeer
from gossip_caffe.sim.recorded_strategy import recorded
from gossip_caffe.sim.store_link import StoreLink
from gossip_caffe.sim.toy_problem import Points
from gossip_caffe.sim.virtual_time import VirtualClock
from gossip_caffe.solver.engines.numpy_engine import NumpyEngine

T = TypeVar("T")

START_AGAIN_S = 2.0
"""Seconds until the simulated supervisor starts a peer again that ended by an error."""


def _say_nothing(line: str) -> None:
    del line


def _bare(adapter: str, target: T) -> T:
    """The adapter without tripwires. Most runs need none, and with a thousand peers the cost of each call matters."""
    del adapter
    return target


@dataclass(slots=True)
class Running:
    """One life of a peer's name."""

    peer: SimulatedPeer
    machine: Machine
    log: LifeLog
    wires: Tripwires


class SimulatedCluster:
    """The cluster. Create and use it in a VirtualTimeLoop. ``folder``: for the checkpoints.

    ``step_s``: seconds of an iteration. ``grain_s``: the shortest sleep of a peer (s). ``thin_s``: the shortest time
    between two logged ``progress`` events (s). ``wired``: adapters have tripwires, so they can be made to raise.
    ``observed``: the events of the observer: injected faults and leftovers.
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
        wired: bool = False,
    ) -> None:
        self.spec = spec
        self._wired = wired
        self.clock = VirtualClock()
        self.etcd = MemoryEtcd(self.clock)
        poisoners = Poisoners(random.Random(f"{seed}: poison"), self._note_spoilt)
        self.network = SimulatedNetwork(random.Random(f"{seed}: network"), LinkConditions(), poisoners)
        self.stranger = ForeignWriter(self.etcd, spec)
        self.running: dict[str, Running] = {}
        self.logs: dict[str, Lines] = {}
        self.observed: Lines = []
        self.trips_of_next: list[Trip] = []
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
        self._watching = DetachedTasks(self._broke)
        self.broke: list[BaseException] = []
        """Defects of the simulator itself, or of a test's planted code."""

    async def create_job(self) -> None:
        """Store the job."""
        await create_job(MemoryStore(self.etcd), self.spec)

    @property
    def finished(self) -> bool:
        """True if the store has the job's end, and it is believed."""
        keys, there = JobKeys(self.spec.name), self.etcd.keys
        if (item := there.get(keys.finished)) is None:
            return False
        announced, folded = there.get(keys.checkpoint(named_end(item))), there.get(keys.folded)
        return end_of(item, announced, folded, self.spec).believed

    def note(self, event: str, **fields: object) -> None:
        """Log an event of the observer: an injected fault or an observation."""
        self.observed.append({"t": round(self.clock.wall(), 6), "event": event, **fields})

    def _note_spoilt(self, exchange: str, peer: str, poison: Poison) -> None:
        self.note("spoilt", exchange=exchange, peer=peer, poison=poison.value)

    def start(self, name: str = "") -> str:
        """Start a peer: a new one, or again one whose name has ended; its checkpoints are still there."""
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
        folder.sweep()
        wires = Tripwires(
            lambda where, error: self.note(
                "fault", fault=Kind.EXCEPTION.value, peer=name, where=where, error=error
            )
        )
        around = wires.around if self._wired else _bare
        while self.trips_of_next:
            wires.arm(self.trips_of_next.pop())
        disk = around("disk", folder)
        network.machines[name], network.folders[name] = machine, disk
        network.silent.discard(name)

        def serve(answerer: Answerer) -> None:
            network.answerers[name] = around("answerer", answerer)

        wire = around("network", Wire(network, machine))
        world = PeerDependencies(
            spec=self.spec,
            store=around("store", store),
            transport=wire,
            serve=serve,
            folder=disk,
            files=wire,
            clock=machine.clock,
            rng=rng,
            log=LogInRuns(log, machine.clock),
            say=_say_nothing,
            strategy=recorded(strategy_of(self.spec.settings)),
            planner=self._planner,
        )
        peer = SimulatedPeer(world, store, self._points, NumpyEngine, name, Pace(self.step_s), around)
        self.running[name] = Running(peer, machine, log, wires)
        self._watching.begin(self._see_its_end(name, peer), f"the end of {name}")
        return name

    async def _see_its_end(self, name: str, peer: SimulatedPeer) -> None:
        """Act as the supervisor: a peer that ends by an error is started again, until the job is finished."""
        failed = False
        try:
            await peer.ended()
        except Exception:  # any error ends the process; its log has the error, and `loud-errors` judges it
            failed = True
        self._bury(name, peer)
        if failed and not self.finished:
            await self.clock.sleep(START_AGAIN_S)
            if name not in self.running and not self.finished:
                self.start(name)

    def _broke(self, name: str, error: BaseException) -> None:
        del name
        self.broke.append(error)

    def _bury(self, name: str, peer: SimulatedPeer) -> None:
        running = self.running.get(name)
        if running is not None and running.peer is peer:
            del self.running[name]
            self.network.answerers.pop(name, None)
            self.network.hang_up(name, running.machine)
            self._ended.append(peer)

    def kill(self, name: str, *, silent: bool = False) -> None:
        """Kill a peer like kill -9 of all its processes.

        ``silent``: like its machine's failure, so that no host reports it gone.
        """
        running = self.running[name]
        running.log.die()
        running.peer.kill()
        self._bury(name, running.peer)
        if silent:
            self.network.silent.add(name)

    @property
    def training(self) -> list[SimulatedPeer]:
        """The peers that train now."""
        return [running.peer for running in self.running.values() if running.peer.trains]

    def close(self) -> None:
        """Release the memory."""
        for peer in (*self._ended, *(running.peer for running in self.running.values())):
            peer.close()
