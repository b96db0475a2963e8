"""A solver without a process: the same loop, stepped by hand, so that an agent can be tested on virtual time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.loader_port import ProcessEnd
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import GossipCaffeError, SolverDied
from gossip_caffe.job.spec import RateSchedule
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.solver.engine import EngineSpec, SolverEngine
from gossip_caffe.solver.history import SolverHistory, write_history
from gossip_caffe.solver.layout import WeightLayout
from gossip_caffe.solver.loop import SolverLoop
from gossip_caffe.solver.numpy_engine import NumpyEngine
from gossip_caffe.solver.own_board import OwnBoard

KILLED = -9


class SteppedSolver(OwnBoard):
    """The twin of ``SolverProcess``: trains for real (NumPy) in ``advance``, and only there.

    Like the process it sees the board through a mapping of its own, and starts anew on a dead one's ``board``.
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
        """Make the engine. Raises SolverDied with its reason."""
        try:
            self._engine = self._make_engine(self._spec, self._ring)
        except GossipCaffeError as error:
            self._end(ProcessEnd(error.exit_code, error.message, error.remedy, final=True))
            raise SolverDied(error.message, remedy=error.remedy) from error
        self._fit_board(self._engine.layout)
        return self._engine.layout

    async def start(self, weights: NDArray[np.float32] | None, history: str = "") -> None:
        """From here on ``advance`` trains: from ``weights``, the board's newest snapshot, or fresh ones.

        ``history``: a .solverstate whose momentum it takes.
        """
        if self._engine is None:
            raise SolverDied("the solver was not built", remedy="report this defect")
        if weights is not None:
            self.board.install(weights)
        self._own_view = WeightBoard.attach(os.dup(self.board.fd))
        self._loop = SolverLoop(
            self._engine, self._spec, self._schedule, self._ring, self._own_view, self._monotonic
        )
        self._loop.start(fresh=not self.board.published.version)
        if history:
            self._engine.load_history(history)

    async def history(self) -> SolverHistory:
        """Its momentum, just after it has published its weights. Raises SolverDied."""
        if self._engine is None or self._loop is None or self._ended.done():
            raise SolverDied("the solver does not run", remedy="report this defect")
        self._loop.settle()
        fd = os.memfd_create("gossip-caffe-history", os.MFD_CLOEXEC)
        return SolverHistory(fd, write_history(self._engine.history(), os.dup(fd)), self.board.iteration)

    def advance(self, iterations: int) -> int:
        """Make up to so many iterations, as the batches allow; returns how many. Publishes as the process does.

        A loss that is not finite ends it, as it ends the process.
        """
        made = 0
        if self._loop is None or self._ended.done():
            return made
        try:
            self._loop.between_steps()
            while made < iterations and (batches := self._loop.batches_due):
                self._loop.step(batches)
                self._loop.between_steps()
                made += 1
            if made < iterations:
                self._loop.settle()
        except GossipCaffeError as error:
            self._end(ProcessEnd(error.exit_code, error.message, error.remedy, final=True))
        return made

    def kill(self) -> None:
        """End it between two steps; what it did not publish is gone."""
        self._end(ProcessEnd(KILLED, "the solver ended (killed by SIGKILL)"))

    async def wait(self) -> ProcessEnd:
        """How it ended, once it has."""
        return await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """Publish, and end."""
        if self._loop is not None and not self._ended.done():
            self._loop.settle()
        self._end(ProcessEnd(0, "the solver ended (exit 0)"))

    def close(self) -> None:
        """Let go of the memory that its board is in."""
        if self._own_view is not None:
            self._own_view.close()
        if self.built:
            self.board.close()
        self._loop = self._own_view = None

    def _end(self, end: ProcessEnd) -> None:
        if not self._ended.done():
            self._ended.set_result(end)
