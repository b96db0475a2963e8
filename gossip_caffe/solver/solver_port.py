"""The agent's side of the solver process."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.background import within
from gossip_caffe.data.loader_port import ProcessEnd
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import EnvironmentProblem, SolverDied
from gossip_caffe.job.spec.spec import RateSchedule
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.solver.checks.caffe_errors import abort_cause
from gossip_caffe.solver.checks.debug_lines import debug_lines
from gossip_caffe.solver.engines.engine import EngineSpec
from gossip_caffe.solver.engines.layout import WeightLayout
from gossip_caffe.solver.history import SolverHistory
from gossip_caffe.solver.script_link import ScriptLife, ScriptLink
from gossip_caffe.system.children import Child

STOP_DEADLINE_S = 5.0


def _unheard(lines: Sequence[str]) -> None:
    del lines


class Solver(Protocol):
    """A peer's solver, as its agent uses it: a process, or its twin for tests."""

    @property
    def pid(self) -> int:
        """The solver's process id."""
        ...

    @property
    def board(self) -> WeightBoard:
        """The solver's weight board, from ``build`` on."""
        ...

    async def build(self) -> WeightLayout:
        """Start the solver and let it build the net. Returns the layout of its weights.

        Raises SolverDied with the cause.
        """
        ...

    async def start(self, weights: NDArray[np.float32] | None, history: str = "", passes: int = 0) -> None:
        """Let the solver train from ``weights``, shape (layout.size,); None: from the board's newest snapshot.

        Without weights and without a snapshot it starts from its own fresh weights. ``history``: a .solverstate file,
        whose momentum the solver loads. ``passes``: the passes of this peer's rank that were made before; a net that
        makes its own data skips them, if it can.
        """
        ...

    async def history(self) -> SolverHistory:
        """Return the solver's momentum, just after it has published its weights. Raises SolverDied."""
        ...

    async def wait(self) -> ProcessEnd:
        """Wait until the solver has ended. Returns its exit code and the cause."""
        ...

    async def stop(self) -> None:
        """End the solver after its current step."""
        ...


class BoardOwner:
    """The part that a solver process and its twin share: the weight board, created when the net is built.

    ``board``: the board of a dead solver that this one replaces; None: a new board.
    """

    def __init__(self, board: WeightBoard | None) -> None:
        self._board = board

    @property
    def has_board(self) -> bool:
        """True if there is a board: the net was built, or a dead solver left its board."""
        return self._board is not None

    @property
    def board(self) -> WeightBoard:
        """The weight board. Raises SolverDied before the net is built."""
        if self._board is None:
            raise SolverDied("the solver was not built", remedy="report this defect")
        return self._board

    def _fit_board(self, layout: WeightLayout) -> None:
        """Create the board for a net of this layout. Raises SolverDied when the given board has another size."""
        if self._board is None:
            self._board = WeightBoard.create(layout.size, layout.exchanged)
        elif self._board.size != layout.size:
            raise SolverDied(
                f"the new solver has {layout.size} weights, the dead one had {self._board.size}",
                remedy="report this defect",
            )


class SolverProcess(BoardOwner):
    """A solver in a process of its own, which trains the batches of a ring.

    ``board``: the board of a dead solver that this one replaces; None: a new board. ``displayed`` is called with the
    lines that Caffe prints about training, and the number of the display; None: lines of debug_info. ``noticed`` is
    called with one line that the user should know. ``script``: the solver is a user's script, not a process of its own.
    """

    def __init__(
        self,
        spec: EngineSpec,
        schedule: RateSchedule,
        ring: BatchRing,
        board: WeightBoard | None = None,
        environment: Mapping[str, str] | None = None,
        displayed: Callable[[int | None, Sequence[str]], None] = lambda _number, _lines: None,
        noticed: Callable[[str], None] = lambda _: None,
        script: ScriptLink | None = None,
    ) -> None:
        super().__init__(board)
        self._spec = spec
        self._schedule = schedule
        self._ring = ring
        self._environment = environment
        self._displayed = displayed
        self._noticed = noticed
        on_lines = self._printed if spec.debug_info else _unheard
        self._child: Child | ScriptLife = (
            Child("gossip_caffe.solver.child", self._heard, on_lines=on_lines)
            if script is None
            else script.life(self._heard)
        )
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._failed: SolverDied | None = None
        self._asked = 0

    @property
    def pid(self) -> int:
        """The solver's process id."""
        return self._child.pid

    async def build(self) -> WeightLayout:
        """Start the process and let it build the net. Raises SolverDied with Caffe's reason."""
        self._child.start(self._environment)
        build = {"build": dataclasses.asdict(self._spec), "schedule": dataclasses.asdict(self._schedule)}
        self._child.send(build, self._ring.fds)
        layout = WeightLayout.from_record((await self._answer("layout"))["layout"])
        self._fit_board(layout)
        return layout

    async def start(self, weights: NDArray[np.float32] | None, history: str = "", passes: int = 0) -> None:
        """Let the solver train. Returns when its first snapshot is published. The parameters are the Protocol's."""
        if weights is not None:
            self.board.install(weights)
        source = "board" if self.board.published.version else "fresh"
        self._child.send({"start": source, "history": history, "passes": passes}, [self.board.fd])
        await self._answer("started")

    async def history(self) -> SolverHistory:
        """Return the solver's momentum. It costs the solver one copy between two steps.

        Raises SolverDied; EnvironmentProblem when this machine lacks the memory or a descriptor for the copy.
        """
        self._asked += 1
        number = self._asked
        try:
            fd = os.memfd_create("gossip-caffe-history", os.MFD_CLOEXEC)
        except OSError as error:
            raise _no_room(error) from error
        try:
            try:
                self._child.send({"history": number}, [fd])
            except OSError as error:
                raise _no_room(error) from error
            while (answer := await self._answer("history"))["history"] != number:
                pass  # the answer to an earlier request that was cancelled
            return SolverHistory(fd, answer["shapes"], answer["iteration"])
        except BaseException:
            os.close(fd)
            raise

    async def _answer(self, kind: str) -> dict[str, Any]:
        async with within(self._messages.get(), self._child.wait()) as (answer, ended):
            await asyncio.wait({answer, ended}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                said: dict[str, Any] = answer.result()
                if kind in said:
                    return said
        end = await self.wait()
        raise SolverDied(end.cause, remedy=end.remedy)

    async def wait(self) -> ProcessEnd:
        """Wait until the process has ended. Returns its end; the cause is Caffe's own message if it printed one."""
        end = await self._child.wait()
        if self._failed is not None:
            return ProcessEnd(end.code, self._failed.message, self._failed.remedy, final=True)
        cause, remedy = abort_cause(end.stderr)
        if not cause and end.code == -signal.SIGKILL:
            remedy = "if no user killed it, the machine ran out of memory ('dmesg' shows it): use a smaller batch_size"
        return ProcessEnd(end.code, cause or f"the solver ended ({end.how})", remedy)

    async def stop(self) -> None:
        """End the process after its current step, and kill it after STOP_DEADLINE_S."""
        await self._child.stop({"stop": True}, STOP_DEADLINE_S)

    def _printed(self, lines: Sequence[str]) -> None:
        """Pass on those lines of Caffe's output that debug_info adds."""
        if found := debug_lines(lines):
            self._displayed(None, found)

    def _heard(self, message: dict[str, Any]) -> None:
        if "displayed" in message:
            self._displayed(message["displayed"], message["lines"])
            return
        if "notice" in message:
            self._noticed(message["notice"])
            return
        if "failed" in message:
            self._failed = SolverDied(message["failed"], remedy=message["remedy"])
        self._messages.put_nowait(message)


def _no_room(error: OSError) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"the solver's momentum cannot be passed to the agent ({error.strerror})",
        remedy="free memory, or raise the limit on open files (ulimit -n)",
    )
