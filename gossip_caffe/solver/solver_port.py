"""The agent's side of the solver process."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.children import Child
from gossip_caffe.data.loader_port import ProcessEnd
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import SolverDied
from gossip_caffe.job.spec import RateSchedule
from gossip_caffe.solver.abort import abort_cause
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.solver.engine import EngineSpec
from gossip_caffe.solver.history import SolverHistory
from gossip_caffe.solver.layout import WeightLayout
from gossip_caffe.solver.own_board import OwnBoard

STOP_DEADLINE_S = 5.0


class Solver(Protocol):
    """What trains."""

    @property
    def pid(self) -> int:
        """Its process id."""
        ...

    @property
    def board(self) -> WeightBoard:
        """Its weights; there once it was built."""
        ...

    async def build(self) -> WeightLayout:
        """Start it and build the net. Raises SolverDied with the cause."""
        ...

    async def start(self, weights: NDArray[np.float32] | None, history: str = "") -> None:
        """Let it train: from ``weights``, or from the board's newest snapshot, or from its own fresh weights.

        ``history``: a .solverstate whose momentum it takes.
        """
        ...

    async def history(self) -> SolverHistory:
        """Its momentum, just after it has published its weights. Raises SolverDied."""
        ...

    async def wait(self) -> ProcessEnd:
        """How it ended, once it has."""
        ...

    async def stop(self) -> None:
        """End it after its current step."""
        ...


class SolverProcess(OwnBoard):
    """A solver in a process of its own, over a ring; on ``board`` when it takes a dead one's place."""

    def __init__(
        self,
        spec: EngineSpec,
        schedule: RateSchedule,
        ring: BatchRing,
        board: WeightBoard | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(board)
        self._spec = spec
        self._schedule = schedule
        self._ring = ring
        self._environment = environment
        self._child = Child("gossip_caffe.solver.child", self._heard)
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._failed: SolverDied | None = None
        self._asked = 0

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    async def build(self) -> WeightLayout:
        """Spawn it and build the net. Raises SolverDied with Caffe's reason."""
        self._child.start(self._environment)
        build = {"build": dataclasses.asdict(self._spec), "schedule": dataclasses.asdict(self._schedule)}
        self._child.send(build, self._ring.fds)
        layout = WeightLayout.from_record((await self._answer("layout"))["layout"])
        self._fit_board(layout)
        return layout

    async def start(self, weights: NDArray[np.float32] | None, history: str = "") -> None:
        """Let it train; returns when its first snapshot is published."""
        if weights is not None:
            self.board.install(weights)
        source = "board" if self.board.published.version else "fresh"
        self._child.send({"start": source, "history": history}, [self.board.fd])
        await self._answer("started")

    async def history(self) -> SolverHistory:
        """Its momentum; costs the solver one copy between two steps."""
        self._asked += 1
        number, fd = self._asked, os.memfd_create("gossip-caffe-history", os.MFD_CLOEXEC)
        try:
            self._child.send({"history": number}, [fd])
            while (answer := await self._answer("history"))["history"] != number:
                pass  # the answer to somebody who has stopped waiting for it
            return SolverHistory(fd, answer["shapes"], answer["iteration"])
        except BaseException:
            os.close(fd)
            raise

    async def _answer(self, kind: str) -> dict[str, Any]:
        answer = asyncio.ensure_future(self._messages.get())
        ended = asyncio.ensure_future(self._child.wait())
        try:
            await asyncio.wait({answer, ended}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done() and kind in answer.result():
                return answer.result()
        finally:
            answer.cancel()
            ended.cancel()
        end = await self.wait()
        raise SolverDied(end.cause, remedy=end.remedy)

    async def wait(self) -> ProcessEnd:
        """How it ended, once it has; the cause is Caffe's own where it printed one."""
        end = await self._child.wait()
        if self._failed is not None:
            return ProcessEnd(end.code, self._failed.message, self._failed.remedy, final=True)
        cause, remedy = abort_cause(end.stderr)
        if not cause and end.code == -signal.SIGKILL:
            remedy = "if nobody killed it, the machine ran out of memory ('dmesg' says so): use a smaller batch_size"
        return ProcessEnd(end.code, cause or f"the solver ended ({end.how})", remedy)

    async def stop(self) -> None:
        """End it after its current step."""
        await self._child.stop({"stop": True}, STOP_DEADLINE_S)

    def _heard(self, message: dict[str, Any]) -> None:
        if "failed" in message:
            self._failed = SolverDied(message["failed"], remedy=message["remedy"])
        self._messages.put_nowait(message)
