"""The two children of a peer, solver and loader, and the stream of batches through them; either may die at any time.

A dead loader is started again and told once more what the solver has not been fed. A dead solver is started again from
its newest snapshot, which survives it in shared memory; whatever it trained after that is fed again. One that keeps
dying ends the peer, with the cause that Caffe printed.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.clock import Clock
from gossip_caffe.data.loader_port import Loader, PlannedBatch, ProcessEnd
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import DataError, SolverDied
from gossip_caffe.job.spec import StartSpec
from gossip_caffe.observe.events import Event, EventLog
from gossip_caffe.shards.epochs import ChunkId
from gossip_caffe.shards.stream import Batch, RecordStream, records_of
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.solver.history import SolverHistory
from gossip_caffe.solver.layout import WeightLayout
from gossip_caffe.solver.solver_port import Solver

_FRESH = StartSpec()
MAX_DEATHS_WITHOUT_PROGRESS = 3
"""A child that dies this often without a batch trained in between will not get further by dying again."""
_FROM_OUTSIDE = frozenset({-signal.SIGKILL, -signal.SIGTERM})
"""Whoever ends so while it starts did not fail: somebody, or a machine without memory, ended it."""


class Trainer:
    """Solver, loader, ring and stream of one peer.

    ``make_solver`` makes a solver over the ring, and on the given board (None for the first, which makes its own);
    ``make_loader`` makes a loader over the ring. ``begins_with``: what a solver that founds the job loads.
    """

    def __init__(
        self,
        *,
        batch_records: int,
        ring: BatchRing,
        make_solver: Callable[[WeightBoard | None], Solver],
        make_loader: Callable[[], Loader],
        clock: Clock,
        log: EventLog,
        begins_with: StartSpec = _FRESH,
    ) -> None:
        self.begins_with = begins_with
        self.stream = RecordStream(batch_records)
        self.layout: WeightLayout
        self.board: WeightBoard
        self.solver_restarts = self.records_skipped = 0
        self._ring = ring
        self._make_solver = make_solver
        self._make_loader = make_loader
        self._clock = clock
        self._log = log
        self._solver: Solver
        self._loader: Loader
        self._deaths = 0
        self._progress_at_death = -1
        self._restarting = False
        self._made = self._begun = self._loader_ready = False
        self.samples_trained = 0

    @property
    def solver_pid(self) -> int:
        """Process id of the solver, 0 when it has none."""
        return self._solver.pid if not self._restarting else 0

    @property
    def loader_pid(self) -> int:
        """Process id of the loader, 0 when it has none."""
        return self._loader.pid if not self._restarting else 0

    @property
    def queued_batches(self) -> int:
        """Batches cut and not yet trained."""
        return self.stream.next_sequence - self.board.batches

    async def build(self) -> WeightLayout:
        """Start both children; returns when the net stands. Raises SolverDied or DataError with the cause."""
        self._solver, self._loader = self._make_solver(None), self._make_loader()
        self._made, self._begun = True, False
        starting = asyncio.ensure_future(self._start_loader())
        try:
            self.layout = await self._build_solver()
            await starting
        finally:
            starting.cancel()
        self._loader_ready = True
        return self.layout

    async def start(self, weights: NDArray[np.float32] | None, history: str = "") -> None:
        """Let the solver run, from ``weights`` (flat, shape (layout.size,)) or from its own fresh ones.

        ``history``: a .solverstate whose momentum it takes.
        """
        self._begun = True
        while True:
            try:
                await self._solver.start(weights, history)
            except SolverDied as error:
                await self._solver_died_starting(error)
                self.layout = await self._build_solver()
            else:
                self.board = self._solver.board
                return

    async def history(self) -> SolverHistory | None:
        """The solver's momentum; None when there is no solver to give it now."""
        if self._restarting:
            return None
        try:
            return await self._solver.history()
        except SolverDied:
            return None  # whoever supervises it starts another

    async def renew(self) -> None:
        """Have children whose solver has no weights yet, before anything was fed: new ones, where one has."""
        if self._begun:
            await self.stop()
            await self.build()

    def feed(self, chunk: ChunkId, start: int, stop: int) -> None:
        """Queue the records [start, stop) of a claimed chunk."""
        self.stream.add(chunk, start, stop)

    def cut(self, *, flush: bool = False) -> None:
        """Hand every batch that is whole (with ``flush``: also the rest) to the loader."""
        batches = []
        while (batch := self.stream.cut(flush=flush)) is not None:
            batches.append(batch)
        if batches and self._loader_ready:
            self._loader.plan([_planned(batch) for batch in batches])

    def note_trained(self) -> int:
        """Write down what was trained since the last call; returns its records."""
        records = 0
        for batch in self.stream.trained(self.board.batches):
            self._log.emit(Event.TRAINED, sequence=batch.sequence, parts=records_of(batch.parts))
            records += batch.records
        self.samples_trained += records
        return records

    def note_skipped(self, epoch: int, record: int, reason: str) -> None:
        """Write down a corrupt record that was left out of its batch."""
        self.records_skipped += 1
        self._log.emit(Event.SKIPPED, epoch=epoch, record=record, reason=reason)

    async def supervise(self) -> None:
        """Restart whichever child ends; returns never. Raises SolverDied or DataError when that does not help."""
        while True:
            solver_end = asyncio.ensure_future(self._solver.wait())
            loader_end = asyncio.ensure_future(self._loader.wait())
            try:
                await asyncio.wait({solver_end, loader_end}, return_when=asyncio.FIRST_COMPLETED)
                if solver_end.done():
                    await self._restart_solver(solver_end.result())
                else:
                    await self._restart_loader(loader_end.result())
            finally:
                solver_end.cancel()
                loader_end.cancel()

    async def _restart_solver(self, end: ProcessEnd) -> None:
        self._restarting, self._loader_ready = True, False
        trained = self.board.batches
        self.note_trained()
        await self._loader.stop()
        kept = self.board.published.batches
        self._log.emit(Event.SOLVER_DIED, cause=end.cause, sequences_lost=[kept, trained])
        self._count_death(end, SolverDied)
        self.board.rewind()
        self._ring.rewind(kept)
        self._solver, self._loader = self._make_solver(self.board), self._make_loader()
        await self._start_loader()
        self._resume_loader(self.stream.retrain(kept))
        try:
            await self._solver.build()
            await self._solver.start(None)
        except SolverDied as error:
            if (again := await self._solver.wait()).code not in _FROM_OUTSIDE:
                raise error
            await self._restart_solver(again)
            return
        self.solver_restarts += 1
        self._restarting = False
        self._log.emit(Event.SOLVER_BACK, sequence=kept)

    async def _restart_loader(self, end: ProcessEnd) -> None:
        self._restarting, self._loader_ready = True, False
        self._log.emit(Event.LOADER_DIED, cause=end.cause)
        self._count_death(end, DataError)
        self._loader = self._make_loader()
        await self._start_loader()
        self._resume_loader(self.stream.from_sequence(self._ring.head))
        self._restarting = False

    async def _start_loader(self) -> None:
        """Until it stands, though somebody kills it meanwhile. Raises DataError with its own reason."""
        while True:
            try:
                return await self._loader.start()
            except DataError:
                end = await self._loader.wait()
                if end.code not in _FROM_OUTSIDE:
                    raise
                self._log.emit(Event.LOADER_DIED, cause=end.cause)
                self._count_death(end, DataError)
                self._loader = self._make_loader()

    async def _build_solver(self) -> WeightLayout:
        """The same for a first solver, until its net stands. Raises SolverDied."""
        while True:
            try:
                return await self._solver.build()
            except SolverDied as error:
                await self._solver_died_starting(error)

    async def _solver_died_starting(self, error: SolverDied) -> None:
        """Make another one where somebody ended the first before it trained anything; else raises ``error``."""
        end = await self._solver.wait()
        if end.code not in _FROM_OUTSIDE:
            raise error
        self._log.emit(Event.SOLVER_DIED, cause=end.cause, sequences_lost=[0, 0])
        self._count_death(end, SolverDied)
        self._solver = self._make_solver(None)

    def _resume_loader(self, batches: list[Batch]) -> None:
        """Tell a new loader what is to come; from here on ``cut`` tells it the rest."""
        self._loader.plan([_planned(batch) for batch in batches])
        self._loader_ready = True

    def _count_death(self, end: ProcessEnd, error: type[SolverDied | DataError]) -> None:
        """Raise when another child would only end the same way: it said so, or it did so too often."""
        progress = self.board.batches if hasattr(self, "board") else 0
        self._deaths = self._deaths + 1 if progress <= self._progress_at_death else 1
        self._progress_at_death = max(progress, self._progress_at_death)
        if end.final or self._deaths >= MAX_DEATHS_WITHOUT_PROGRESS:
            raise error(end.cause, remedy=end.remedy or "see the peer's log")

    async def stop(self) -> None:
        """End both children, the solver after its current step; none were made yet where a peer could not register."""
        if not self._made:
            return
        await asyncio.gather(self._solver.stop(), self._loader.stop())


def _planned(batch: Batch) -> PlannedBatch:
    return PlannedBatch(batch.sequence, tuple((part.epoch, part.start, part.stop) for part in batch.parts))
