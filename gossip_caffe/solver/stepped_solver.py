"""A solver without a process: the same loop, advanced by calls, so that an agent can run on virtual time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.loader_port import ProcessEnd
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import GossipCaffeError, SolverDied
from gossip_caffe.job.spec.spec import RateSchedule
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.solver.engines.engine import EngineSpec, SolverEngine
from gossip_caffe.solver.engines.layout import WeightLayout
from gossip_caffe.solver.engines.numpy_engine import NumpyEngine
from gossip_caffe.solver.history import SolverHistory, write_history
from gossip_caffe.solver.loop import SolverLoop
from gossip_caffe.solver.solver_port import BoardOwner

KILLED = -9


class SteppedSolver(BoardOwner):
    """The twin of ``SolverProcess``: it really trains (with NumPy), but only within ``advance``.

    Like the process it maps the board for itself. ``board``: the board of a dead solver that this one replaces.
    """

    pid = 0

    def __init__(
        self,
        spec: EngineSpec,
        schedule: RateSchedule,
        ring: BatchRing,
        board: WeightBoard | None = None,
        *,
        monotonic: Callable[[], float],
        make_engine: Callable[[EngineSpec, BatchRing], SolverEngine] = NumpyEngine,
    ) -> None:
        super().__init__(board)
        self._spec = spec
        self._schedule = schedule
        self._ring = ring
        self._monotonic = monotonic
        self._make_engine = make_engine
        self._engine: SolverEngine | None = None
        self._loop: SolverLoop | None = None
        self._own_view: WeightBoard | None = None
        self._ended: asyncio.Future[ProcessEnd] = asyncio.get_running_loop().create_future()

    async def build(self) -> WeightLayout:
        """Make the engine. Returns the layout of its weights. Raises SolverDied with the engine's reason."""
        try:
            self._engine = self._make_engine(self._spec, self._ring)
        except GossipCaffeError as error:
            self._end(ProcessEnd(error.exit_code, error.message, error.remedy, final=True))
            raise SolverDied(error.message, remedy=error.remedy) from error
        self._fit_board(self._engine.layout)
        return self._engine.layout

    async def start(self, weights: NDArray[np.float32] | None, history: str = "", passes: int = 0) -> None:
        """Prepare ``advance`` to train from ``weights``, from the board's newest snapshot, or from fresh weights.

        ``history``: a .solverstate file, whose momentum is loaded. ``passes``: the passes of this peer's rank that were
        made before.
        """
        if self._engine is None:
            raise SolverDied("the solver was not built", remedy="report this defect")
        if weights is not None:
            self.board.install(weights)
        self._own_view = WeightBoard.attach(os.dup(self.board.fd))
        self._loop = SolverLoop(
            self._engine, self._spec, self._schedule, self._ring, self._own_view, self._monotonic
        )
        self._loop.start(fresh=not self.board.published.version, passes=passes)
        if history:
            self._engine.load_history(history)

    async def history(self) -> SolverHistory:
        """Return the momentum, just after the weights were published. Raises SolverDied."""
        if self._engine is None or self._loop is None or self._ended.done():
            raise SolverDied("the solver does not run", remedy="report this defect")
        self._loop.settle()
        fd = os.memfd_create("gossip-caffe-history", os.MFD_CLOEXEC)
        return SolverHistory(fd, write_history(self._engine.history(), os.dup(fd)), self.board.iteration)

    def advance(self, iterations: int) -> int:
        """Train at most ``iterations`` iterations, as far as batches are in the ring. Returns the number made.

        It publishes as the process does. A loss that is not finite ends the solver, as it ends the process.
        """
        made = 0
        if self._loop is None or self._ended.done():
            return made
        try:
            waits = self._loop.waits_for_round
            self._loop.between_steps()
            while (
                made < iterations
                and not (waits or self._loop.waits_for_round)
                and not self._loop.holds
                and (batches := self._loop.batches_due)
            ):
                self._loop.step(batches)
                self._loop.between_steps()
                made += 1
            if made < iterations or self._loop.waits_for_round:
                self._loop.settle()
        except GossipCaffeError as error:
            self._end(ProcessEnd(error.exit_code, error.message, error.remedy, final=True))
        return made

    def kill(self) -> None:
        """End the solver between two steps, without publishing: later steps are lost, as with a killed process."""
        self._end(ProcessEnd(KILLED, "the solver ended (killed by SIGKILL)"))

    async def wait(self) -> ProcessEnd:
        """Wait until the solver has ended. Returns its exit code and the cause."""
        return await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """Publish the weights, and end."""
        if self._loop is not None and not self._ended.done():
            self._loop.settle()
        self._end(ProcessEnd(0, "the solver ended (exit 0)"))

    def close(self) -> None:
        """Unmap the board's memory."""
        if self._own_view is not None:
            self._own_view.close()
        if self.has_board:
            self.board.close()
        self._loop = self._own_view = None

    def _end(self, end: ProcessEnd) -> None:
        if not self._ended.done():
            self._ended.set_result(end)
