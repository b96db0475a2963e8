"""One peer on virtual time: the agent itself, with a solver and a loader that are stepped in its own process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gossip_caffe import __version__
from gossip_caffe.data.loader import Sources
from gossip_caffe.data.loader_port import Loader
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.data.stepped_loader import SteppedLoader
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.peer.agent import Agent
from gossip_caffe.peer.lifecycle import State
from gossip_caffe.peer.trainer import Trainer
from gossip_caffe.peer.world import World
from gossip_caffe.sim.virtual_time import VirtualClock
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.solver.engine import EngineSpec, SolverEngine, engine_spec
from gossip_caffe.solver.layout import WeightLayout
from gossip_caffe.solver.solver_port import Solver
from gossip_caffe.solver.stepped_solver import SteppedSolver


class Mortal(Protocol):
    """A peer's way to the store, which ends with its machine."""

    def cut_off(self) -> None:
        """Nothing that is asked for arrives any more."""
        ...


MakeEngine = Callable[[EngineSpec, BatchRing], SolverEngine]

IDLE_LOOK_S = 0.002
"""How soon a solver notices a batch for which it waits."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long an iteration takes: ``step_s`` seconds, ± a share of ``jitter``, so that no two peers stay in step."""

    step_s: float
    jitter: float = 0.1


class SimulatedPeer:
    """A peer of a simulated job. ``stepped_at``: the virtual second at which each of its iterations ended."""

    def __init__(
        self,
        world: World,
        store: Mortal,
        sources: Sources,
        make_engine: MakeEngine,
        name: str,
        pace: Pace,
    ) -> None:
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
        slots = max(spec.settings.prefetch_batches, 2 * spec.iter_size)
        self._ring = BatchRing.create(spec.data.tops, spec.data.batch_records, slots)
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
        self._running = asyncio.ensure_future(self._run())

    def _made_solver(self, board: WeightBoard | None) -> Solver:
        self._solver = SteppedSolver(
            self._engine_spec,
            self._world.spec.schedule,
            self._ring,
            board,
            monotonic=self._clock.monotonic,
            make_engine=lambda spec, ring: _Timed(self._make_engine(spec, ring), self._clock),
        )
        return self._solver

    def _made_loader(self) -> Loader:
        self._loader = SteppedLoader(self._sources, self._ring)
        return self._loader

    async def _run(self) -> None:
        stepping = asyncio.ensure_future(self._step())
        try:
            await self._agent.run()
        finally:
            stepping.cancel()
            await asyncio.gather(stepping, return_exceptions=True)

    async def _step(self) -> None:
        """Step for ever. An iteration is computed as it begins: what comes meanwhile is added when it has ended."""
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
                if self._solver is not None and self._solver.built:
                    self._solver.board.note_stall(clock.monotonic() - began)
            self._clock.ahead_s = 0.0

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet, in whatever way."""
        return not self._running.done()

    @property
    def trains(self) -> bool:
        """Whether it is one of those who train, with weights that others share."""
        return self._agent.state in {State.TRAINING, State.ORPHANED} and self.is_running

    def kill_solver(self) -> None:
        """As kill -9 of its solver."""
        if self._solver is not None:
            self._solver.kill()

    def kill_loader(self) -> None:
        """As kill -9 of its loader."""
        if self._loader is not None:
            self._loader.kill()

    async def ended(self) -> None:
        """Return when it has left. Raises what ended it."""
        await asyncio.wait({self._running})
        if not self._running.cancelled():
            self._running.result()

    def kill(self) -> None:
        """As kill -9 does: no word to anybody, and its lease lives on until its time is over."""
        self._store.cut_off()
        self._running.cancel()

    def close(self) -> None:
        """Let go of its memory."""
        self._ring.close()
        if self._solver is not None:
            self._solver.close()

    def leave(self, reason: str) -> None:
        """As SIGTERM does."""
        self._agent.leave(reason)


class _SolversClock:
    """The clock as a solver sees it: it takes time to step, although it is done at once."""

    def __init__(self) -> None:
        self.step_s = self.ahead_s = 0.0
        self._clock = VirtualClock()

    def monotonic(self) -> float:
        return self._clock.monotonic() + self.ahead_s


class _Timed:
    """An engine whose step takes its virtual time."""

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
        self._engine = engine
        self._clock = clock

    def step(self, ring: BatchRing, batches: int, learning_rate: float) -> float:
        """One iteration."""
        loss = self._engine.step(ring, batches, learning_rate)
        self._clock.ahead_s += self._clock.step_s
        return loss


def _record(name: str) -> PeerRecord:
    return PeerRecord(
        peer=name,
        incarnation="",
        address=name,
        host="simulated",
        pid=0,
        state=State.JOINING.value,
        version=__version__,
    )
