"""One peer on virtual time: the real agent, with a solver and a loader that are stepped in the same process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gossip_caffe import __version__
from gossip_caffe.background import checked_by_owner, owned, within
from gossip_caffe.clock import Clock
from gossip_caffe.data.loader import Sources
from gossip_caffe.data.loader_port import Loader
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.data.stepped_loader import SteppedLoader
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.peer.agent import Agent
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.core.lifecycle import State
from gossip_caffe.peer.work.trainer import Trainer
from gossip_caffe.sim.virtual_time import VirtualClock
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.solver.engines.engine import EngineSpec, SolverEngine, engine_spec
from gossip_caffe.solver.engines.layout import WeightLayout
from gossip_caffe.solver.probing.gradient_lengths import Batch, gradient_lengths
from gossip_caffe.solver.solver_port import Solver
from gossip_caffe.solver.stepped_solver import SteppedSolver


class Mortal(Protocol):
    """A peer's connection to the store, which ends with its machine."""

    def cut_off(self) -> None:
        """Disconnect for good: no later request arrives."""
        ...


MakeEngine = Callable[[EngineSpec, BatchRing], SolverEngine]
Around = Callable[[str, Any], Any]
"""Wraps the adapter of that name with an object of the simulator."""

PORT = ":1"

IDLE_LOOK_S = 0.002
"""Seconds until a waiting solver notices a new batch."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The duration of an iteration: ``step_s`` seconds ± a share of ``jitter``, so that peers do not stay in step."""

    step_s: float
    jitter: float = 0.1


def address_of(name: str) -> str:
    """The address of a machine of the simulation; it has one port."""
    return f"{name}{PORT}"


class SteppedProbe:
    """The twin of ``ProbeProcess``: it measures in this process, and takes the virtual time of its iterations."""

    def __init__(self, spec: JobSpec, make_engine: MakeEngine, pace: Pace, clock: Clock) -> None:
        self._spec = spec
        self._make_engine = make_engine
        self._pace = pace
        self._clock = clock

    async def lengths(self, batches: Sequence[Batch]) -> list[float]:
        """The lengths of the job's first gradients."""
        spec = self._spec
        found = gradient_lengths(
            self._make_engine,
            engine_spec(spec, "simulated"),
            spec.data,
            spec.schedule,
            batches,
            spec.first_record,
        )
        await self._clock.sleep(self._pace.step_s * len(found))
        return found


class SimulatedPeer:
    """A peer of a simulated job. ``stepped_at``: the virtual second at the end of each of its iterations."""

    def __init__(
        self,
        world: PeerDependencies,
        store: Mortal,
        sources: Sources,
        make_engine: MakeEngine,
        name: str,
        pace: Pace,
        around: Around = lambda _, target: target,
    ) -> None:
        self._around = around
        self.name = name
        self.stepped_at: list[float] = []
        self.stalled_s = 0.0
        self._world = world
        self._store = store
        self.pace = pace
        self._rng = random.Random(f"{name}'s pace, {world.rng.getrandbits(32)}")
        self._clock = _SolversClock()
        self._make_engine = make_engine
        self._sources = sources
        self._solver: SteppedSolver | None = None
        self._loader: SteppedLoader | None = None
        spec = world.spec
        self._ring = BatchRing.create(spec.data.tops, spec.data.batch_records, spec.ring_slots)
        self._engine_spec = engine_spec(spec, "simulated", world.rng.getrandbits(31))
        self.trainer = Trainer(
            batch_records=spec.data.batch_records,
            ring=self._ring,
            make_solver=self._made_solver,
            make_loader=self._made_loader,
            clock=world.clock,
            log=world.log,
            begins_with=spec.start,
        )
        self._agent = Agent(world, _record(name), self.trainer)
        self._running = owned(self._run(), name, checked_by_owner)

    def _made_solver(self, board: WeightBoard | None) -> Solver:
        self._solver = SteppedSolver(
            self._engine_spec,
            self._world.spec.schedule,
            self._ring,
            board,
            monotonic=self._clock.monotonic,
            make_engine=lambda spec, ring: _Timed(self._make_engine(spec, ring), self._clock),
        )
        solver: Solver = self._around("solver", self._solver)
        return solver

    def _made_loader(self) -> Loader:
        self._loader = SteppedLoader(self._sources, self._ring)
        loader: Loader = self._around("loader", self._loader)
        return loader

    async def _run(self) -> None:
        async with within(self._step(), self._agent.run()) as (stepping, agent):
            await asyncio.wait({stepping, agent}, return_when=asyncio.FIRST_COMPLETED)
            if stepping.done():
                stepping.result()  # it never returns, so a result is an error of the engine, which is a defect
            await agent

    async def _step(self) -> None:
        """Make iterations for ever.

        An iteration is computed at its beginning: a correction that arrives during it is added at its end.
        """
        clock = self._world.clock
        while True:
            step_s = self.pace.step_s * self._rng.uniform(1 - self.pace.jitter, 1 + self.pace.jitter)
            self._clock.step_s = step_s
            if self._loader is not None:
                self._loader.advance()
            made = self._solver.advance(1) if self._solver is not None else 0
            if made:
                await clock.sleep(step_s)
                self.stepped_at.append(clock.monotonic())
            else:
                began = clock.monotonic()
                await clock.sleep(IDLE_LOOK_S)
                self.stalled_s += IDLE_LOOK_S
                if self._solver is not None and self._solver.has_board:
                    board = self._solver.board
                    note = board.note_round_wait if board.at_gate else board.note_stall
                    note(clock.monotonic() - began)
            self._clock.ahead_s = 0.0

    @property
    def is_running(self) -> bool:
        """True until the peer has ended, in any way."""
        return not self._running.done()

    @property
    def trains(self) -> bool:
        """True if the peer trains and has the job's weights."""
        return self._agent.state in {State.TRAINING, State.ORPHANED} and self.is_running

    def kill_solver(self) -> None:
        """Kill its solver like kill -9."""
        if self._solver is not None:
            self._solver.kill()

    def kill_loader(self) -> None:
        """Kill its loader like kill -9."""
        if self._loader is not None:
            self._loader.kill()

    async def ended(self) -> None:
        """Wait until the peer has left. Raises the error that ended it."""
        await asyncio.wait({self._running})
        if not self._running.cancelled():
            self._running.result()

    def kill(self) -> None:
        """Kill the peer like kill -9: it sends nothing more, and its lease ends by its time to live."""
        self._store.cut_off()
        self._running.cancel()

    def close(self) -> None:
        """Release its memory."""
        self._ring.close()
        if self._solver is not None:
            self._solver.close()

    def leave(self, reason: str) -> None:
        """Ask the peer to leave, like SIGTERM."""
        self._agent.leave(reason)


class _SolversClock:
    """The solver's clock: it advances by the duration of a step, although the step is computed at once."""

    def __init__(self) -> None:
        self.step_s = self.ahead_s = 0.0
        self._clock = VirtualClock()

    def monotonic(self) -> float:
        return self._clock.monotonic() + self.ahead_s


class _Timed:
    """An engine whose steps take virtual time."""

    def __init__(self, engine: SolverEngine, clock: _SolversClock) -> None:
        self.layout: WeightLayout = engine.layout
        self.read_weights = engine.read_weights
        self.write_weights = engine.write_weights
        self.add_to_weights = engine.add_to_weights
        self.lend = engine.lend
        self.load_first_weights = engine.load_first_weights
        self.history = engine.history
        self.load_history = engine.load_history
        self.draw_noise_from = engine.draw_noise_from
        self.skip = engine.skip
        self.outputs = engine.outputs
        self.clip_gradients = engine.clip_gradients
        self._engine = engine
        self._clock = clock

    @property
    def gradient_length(self) -> float:
        """The length of the last gradient."""
        return self._engine.gradient_length

    def step(self, ring: BatchRing, batches: int, learning_rate: float) -> float:
        """Make one iteration; returns the loss."""
        loss = self._engine.step(ring, batches, learning_rate)
        self._clock.ahead_s += self._clock.step_s
        return loss


def _record(name: str) -> PeerRecord:
    return PeerRecord(
        peer=name,
        incarnation="",
        address=address_of(name),
        host="simulated",
        pid=0,
        state=State.JOINING.value,
        version=__version__,
    )
