"""The two children of a peer, solver and loader, and the stream of batches through them. Each may die at any time.

A dead loader is started again, and is told the batches that the solver has not got yet. A dead solver is started again
from its newest snapshot, which survives in shared memory; the batches that it trained after the snapshot are fed again.
A child that keeps dying ends the peer with the cause that Caffe printed, and with the records if the solver died at the
same batch twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.background import within
from gossip_caffe.clock import Clock
from gossip_caffe.data.loader_port import Loader, PlannedBatch, ProcessEnd
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import DataError, SolverDied
from gossip_caffe.job.spec.spec import StartSpec
from gossip_caffe.observe.log.events import Event, EventLog
from gossip_caffe.peer.work.deaths import (
    MAX_DEATHS_WITHOUT_PROGRESS,
    Deaths,
    NameRecords,
    by_number,
    cause_by_half,
    was_killed,
)
from gossip_caffe.peer.work.suspects import SuspectBatches
from gossip_caffe.shards.epochs import ChunkId
from gossip_caffe.shards.stream import ChunkBatch, RecordStream, records_of
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.solver.engines.layout import WeightLayout
from gossip_caffe.solver.engines.place import ALONE
from gossip_caffe.solver.history import SolverHistory
from gossip_caffe.solver.solver_port import Solver

__all__ = ["MAX_DEATHS_WITHOUT_PROGRESS", "Heal", "NameRecords", "Trainer"]

Heal = Callable[[str, Callable[[NDArray[np.float32]], None]], Awaitable[None]]
"""Replaces wrong weights. Its arguments are the error in words, and a function that puts other weights, float32 of
shape (layout.size,), in the place of the wrong ones."""
_FRESH = StartSpec()


class Trainer:
    """Solver, loader, ring and stream of one peer.

    * ``make_solver`` makes a solver that reads the ring and uses the given board (None for the first solver, which
      makes its own); ``make_loader`` makes a loader that fills the ring.
    * ``begins_with``: the files that the solver of a job's founder loads.
    * ``place``: the rank that the layers of the next solver are told; ``passes``: the passes over the data that the
      rank has made before.
    * ``suspects`` judges batches at which the solver dies; ``name_records`` names their records.
    * ``samples_trained``, ``solver_restarts``, ``records_skipped``: counts of this process.
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
        suspects: SuspectBatches | None = None,
        name_records: NameRecords = by_number,
    ) -> None:
        self._suspects = suspects or SuspectBatches(1, leave_out=False)
        self._deaths = Deaths(self._suspects, name_records)
        self.begins_with = begins_with
        self.place = self._solver_place = ALONE
        self.passes = 0
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
        self._restarting = False
        self._made = self._begun = self._loader_ready = False
        self.samples_trained = 0
        self.heal: Heal | None = None
        """Replaces wrong weights while no solver runs; None: a peer with wrong weights ends."""
        self.is_healing = False
        self.rests = False
        """True if the solver trains no more although it runs: a script that leaves has ended its loop."""
        self._wrong = ""

    @property
    def solver_pid(self) -> int:
        """The process id of the solver, 0 when there is none."""
        return self._solver.pid if not self._restarting else 0

    @property
    def loader_pid(self) -> int:
        """The process id of the loader, 0 when there is none."""
        return self._loader.pid if not self._restarting else 0

    @property
    def queued_batches(self) -> int:
        """The number of batches that are cut and not trained yet."""
        return self.stream.next_sequence - self.board.batches

    async def build(self) -> WeightLayout:
        """Start both children; returns when the net is built. Raises SolverDied or DataError with the cause."""
        self._solver, self._loader = self._new_solver(None), self._make_loader()
        self._made, self._begun = True, False
        async with within(self._start_loader()) as (starting,):
            self.layout = await self._build_solver()
            await starting
        self._loader_ready = True
        return self.layout

    async def start(self, weights: NDArray[np.float32] | None, history: str = "") -> None:
        """Let the solver train, from ``weights`` (float32, shape (layout.size,)) or, for None, from fresh ones.

        ``history``: the path of a .solverstate whose momentum the solver loads, "" for none.
        """
        self._begun = True
        while True:
            try:
                await self._solver.start(weights, history, self.passes)
            except SolverDied as error:
                await self._solver_died_starting(error)
                self.layout = await self._build_solver()
            else:
                self.board = self._solver.board
                return

    async def history(self) -> SolverHistory | None:
        """The solver's momentum; None while there is no solver."""
        if self._restarting:
            return None
        try:
            return await self._solver.history()
        except SolverDied:
            return None  # ``supervise`` starts another solver

    async def renew(self) -> None:
        """Make sure, before any batch is fed, that the solver has no weights yet and its layers have the present rank.

        Both children are started again where that is not so.
        """
        if self._begun or self._solver_place != self.place:
            await self.stop()
            await self.build()

    async def restart_for_rank(self) -> None:
        """End the solver after its step if its layers have another rank; the next solver takes over its weights."""
        if self._solver_place != self.place:
            await self._solver.stop()

    def _new_solver(self, board: WeightBoard | None) -> Solver:
        self._solver_place = self.place
        return self._make_solver(board)

    def feed(self, chunk: ChunkId, start: int, stop: int) -> None:
        """Queue the records [start, stop) of a chunk for training."""
        self.stream.add(chunk, start, stop)

    def cut(self, *, flush: bool = False) -> None:
        """Cut the queued records into batches, and give each whole one (with ``flush`` also the rest) to the loader."""
        batches = []
        while (batch := self.stream.cut(flush=flush)) is not None:
            batches.append(batch)
        if batches and self._loader_ready:
            self._plan(batches)

    def note_trained(self) -> int:
        """Log the batches that were trained since the last call; returns the number of their records."""
        if self.is_healing:
            return 0  # the board still counts batches that are trained again
        records = 0
        for batch in self.stream.trained(self.board.batches):
            self._log.emit(Event.TRAINED, sequence=batch.sequence, parts=records_of(batch.parts))
            records += batch.records
        self.samples_trained += records
        return records

    def note_skipped(self, epoch: int, record: int, reason: str) -> None:
        """Log a corrupt record that was left out of its batch."""
        self.records_skipped += 1
        self._log.emit(Event.SKIPPED, epoch=epoch, record=record, reason=reason)

    async def supervise(self) -> None:
        """Start a child again whenever one ends, for ever. Raises SolverDied or DataError when that does not help."""
        while True:
            async with within(self._solver.wait(), self._loader.wait()) as (solver_end, loader_end):
                await asyncio.wait({solver_end, loader_end}, return_when=asyncio.FIRST_COMPLETED)
                # After the end of the solver the loader is replaced as well, whether it has ended or not.
                is_solver = solver_end.done()
                end = (solver_end if is_solver else loader_end).result()
            await (self._restart_solver(end) if is_solver else self._restart_loader(end))

    async def end_solver(self, wrong: str) -> None:
        """End the solver because its weights are ``wrong``: the next one goes on from the weights of ``heal``."""
        self._wrong = wrong
        await self._solver.stop()

    async def _restart_solver(self, end: ProcessEnd) -> None:
        self._restarting, self._loader_ready = True, False
        trained = self.board.batches
        self.note_trained()
        await self._loader.stop()
        wrong, self._wrong = self._wrong or cause_by_half(end, self.board), ""
        heal = self.heal if wrong else None
        kept = self.board.published.batches if heal is None else self.stream.first_unsettled
        if not wrong:
            end = await self._deaths.judged(end, trained, self.stream)
        self._log.emit(Event.SOLVER_DIED, cause=wrong or end.cause, sequences_lost=[kept, trained])
        if heal is None:
            self._count_death(end, SolverDied)
            self.board.rewind()
        lost = self.stream.retrain(kept)
        if heal is not None:
            await self._heal(heal, wrong, kept, lost)
        self._ring.rewind(kept)
        self._solver, self._loader = self._new_solver(self.board), self._make_loader()
        await self._start_loader()
        self._resume_loader(self.stream.from_sequence(kept))
        try:
            await self._solver.build()
            await self._solver.start(None, passes=self.passes)
        except SolverDied as error:
            if not was_killed(again := await self._solver.wait()):
                raise error
            await self._restart_solver(again)
            return
        self.solver_restarts += 1
        self._restarting = False
        self._log.emit(Event.SOLVER_BACK, sequence=kept)

    async def _heal(self, heal: Heal, wrong: str, kept: int, lost: list[ChunkBatch]) -> None:
        """Replace the weights on the board by others that hold the first ``kept`` batches and no batch of ``lost``."""
        before = self.board.published
        records = sum(batch.records for batch in lost if batch.sequence < before.batches)

        def replace(weights: NDArray[np.float32]) -> None:
            samples = max(0, before.samples - records)
            self.board.replace(weights, iteration=before.iteration, batches=kept, samples=samples)

        self.is_healing = True
        try:
            await heal(wrong, replace)
        finally:
            self.is_healing = False

    async def _restart_loader(self, end: ProcessEnd) -> None:
        self._restarting, self._loader_ready = True, False
        self._log.emit(Event.LOADER_DIED, cause=end.cause)
        self._count_death(end, DataError)
        self._loader = self._make_loader()
        await self._start_loader()
        self._resume_loader(self.stream.from_sequence(self._ring.head))
        self._restarting = False

    async def _start_loader(self) -> None:
        """Wait until the loader is ready, and start another if this one is killed meanwhile.

        Raises DataError with the reason for which a loader ended by itself.
        """
        while True:
            try:
                return await self._loader.start()
            except DataError:
                end = await self._loader.wait()
                if not was_killed(end):
                    raise
                self._log.emit(Event.LOADER_DIED, cause=end.cause)
                self._count_death(end, DataError)
                self._loader = self._make_loader()

    async def _build_solver(self) -> WeightLayout:
        """Wait until the first solver has built its net, and start another if this one is killed meanwhile.

        Raises SolverDied.
        """
        while True:
            try:
                return await self._solver.build()
            except SolverDied as error:
                await self._solver_died_starting(error)

    async def _solver_died_starting(self, error: SolverDied) -> None:
        """Make another solver if this one was killed before it trained anything; raises ``error`` otherwise."""
        end = await self._solver.wait()
        if not was_killed(end):
            raise error
        self._log.emit(Event.SOLVER_DIED, cause=end.cause, sequences_lost=[0, 0])
        self._count_death(end, SolverDied)
        self._solver = self._new_solver(None)

    def _resume_loader(self, batches: list[ChunkBatch]) -> None:
        """Give a new loader the batches that are cut already; from now on ``cut`` gives it the following ones."""
        self._plan(batches)
        self._loader_ready = True

    def _plan(self, batches: list[ChunkBatch]) -> None:
        """Give batches to the loader, without the records that are left out because solvers died of them."""
        planned = []
        for batch in batches:
            parts, left_out = self._suspects.without(batch.parts)
            for epoch, record, reason in left_out:
                self.note_skipped(epoch, record, reason)
            ranges = tuple((part.epoch, part.start, part.stop) for part in parts)
            planned.append(PlannedBatch(batch.sequence, ranges))
        self._loader.plan(planned)

    def _count_death(self, end: ProcessEnd, error: type[SolverDied | DataError]) -> None:
        """Raise ``error`` when the next child would only end the same way."""
        progress = self.board.batches if hasattr(self, "board") else 0
        self._deaths.count(end, error, progress)

    @property
    def is_restarting(self) -> bool:
        """True while no solver runs, because a child has died."""
        return self._restarting

    async def stop(self) -> None:
        """End both children, the solver after its current step. A peer that could not register has no children."""
        if not self._made:
            return
        await asyncio.gather(self._solver.stop(), self._loader.stop())
