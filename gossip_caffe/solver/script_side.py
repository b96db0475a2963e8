"""The script's end of the socket to the agent of its peer: the user's process is the peer's solver.

The messages are those of a solver process (``child``), for one life after the other (``script_link``). Nothing here
runs beside the script: messages are read, corrections added and snapshots published within its calls, between steps.
"""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import GossipCaffeError
from gossip_caffe.job.spec.spec import RateSchedule, read_fields
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.solver.child import GATE_LOOK_S, HOLD_LOOK_S, IDLE_LOOK_S
from gossip_caffe.solver.engines.display import Displayed
from gossip_caffe.solver.engines.engine import EngineSpec, SolverEngine
from gossip_caffe.solver.engines.place import ALONE, LayerRank
from gossip_caffe.solver.history import HistoryRoom
from gossip_caffe.solver.loop import SolverLoop
from gossip_caffe.system.control import Control


class ScriptsEngine(SolverEngine, Protocol):
    """The engine around a script's solver. ``has_stepped``: the script has made the step of which ``step`` tells."""

    has_stepped: bool

    def set_rate(self, learning_rate: float) -> None:
        """Set the learning rate of the script's next step."""
        ...

    def forget_momentum(self) -> None:
        """Set the momentum to zero: it belongs to weights that were replaced."""
        ...


MakeEngine = Callable[[EngineSpec], ScriptsEngine]


class ScriptSide:
    """The solver that a script is. ``make_engine`` makes the engine of a life, after the layers were told their rank.

    ``ring``: the ring of the present life; None between two lives. ``place``, ``passes``: the rank of this peer, and
    the passes of that rank that were made before. ``failed``: the error with which the last life ended, None otherwise.
    """

    def __init__(self, control: Control, make_engine: MakeEngine) -> None:
        self.ring: BatchRing | None = None
        self.place: LayerRank = ALONE
        self.passes = 0
        self.is_over = False
        self.failed: GossipCaffeError | None = None
        self._control = control
        self._make_engine = make_engine
        self._life = 0
        self._lives = 0
        self._spec: EngineSpec
        self._schedule: RateSchedule
        self._engine: ScriptsEngine | None = None
        self._board: WeightBoard | None = None
        self._loop: SolverLoop | None = None
        self._rooms: deque[tuple[int, HistoryRoom]] = deque()
        self._began_at = time.monotonic()

    @property
    def trains(self) -> bool:
        """True within a life, from the first snapshot on."""
        return self._loop is not None

    @property
    def batches_of_an_iteration(self) -> int:
        """The job's iter_size."""
        return self._spec.iter_size

    @property
    def lives(self) -> int:
        """The number of lives that have begun: with each the solver's weights may be others."""
        return self._lives

    @property
    def samples(self) -> int:
        """The records that this peer has trained."""
        return self._board.samples if self._board is not None else 0

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self._loop.learning_rate if self._loop is not None else 0.0

    def serve(self, timeout_s: float = 0.0) -> None:
        """Handle the messages that are there, or wait ``timeout_s`` for the first."""
        while not self.is_over:
            try:
                received = self._control.receive(timeout_s)
            except EOFError:
                self._end_life()
                self.is_over = True
                return
            if received is None:
                return
            timeout_s = 0.0
            self._handle(*received)

    def ready(self) -> int:
        """Wait until the next iteration's batches are there. Returns their number; 0: the peer trains no more.

        Only here a script waits: for its batch queue, while a lone peer holds for a test or a snapshot, and for a
        round, where the job's strategy is that of rounds.
        """
        while not self.is_over:
            self.serve()
            if self._loop is None or self.ring is None or self._board is None:
                self.serve(IDLE_LOOK_S)
                continue
            board, waits = self._board, self._loop.waits_for_round  # as in ``child``, before corrections
            self._between_steps(self._loop)
            if waits:
                waits_since = time.monotonic()
                self.serve(GATE_LOOK_S)
                board.note_round_wait(time.monotonic() - waits_since)
                continue
            if self._loop.holds:
                self.serve(HOLD_LOOK_S)
                continue
            if batches := self._loop.batches_due:
                if self._engine is not None:
                    self._engine.set_rate(self._loop.learning_rate)
                    self._loop.clip_as_told()
                self._began_at = time.monotonic()
                return batches
            self._loop.settle()
            stalled_at = time.monotonic()
            self._wait(self.ring)
            self._board.note_stall(time.monotonic() - stalled_at)
        return 0

    def step(self, batches: int, *, made: bool) -> None:
        """Train one iteration on ``batches`` batches, or account for the one that the script has ``made``.

        A loss that is not finite ends the life: the agent decides whether the weights are replaced.
        """
        if self._loop is None or self._engine is None:
            return  # the life has ended meanwhile: the step is lost, as those of a killed solver
        self._engine.has_stepped = made
        try:
            self._loop.step(batches, time.monotonic() - self._began_at if made else None)
        except GossipCaffeError as error:
            self.failed = error
            self._send({"failed": error.message, "remedy": error.remedy})
            self._end_life(int(error.exit_code))
            return
        self.serve()
        if self._loop is not None:
            self._between_steps(self._loop)

    def leave(self, reason: str) -> None:
        """Ask the agent to leave; go on with ``idle`` until ``is_over``."""
        if not self.is_over:
            self._control.send({"leave": reason})

    def idle(self) -> None:
        """Do everything but train, for a moment: the agent shares what is learned."""
        if self._loop is not None:
            self._between_steps(self._loop)
            self._loop.settle()
        self.serve(IDLE_LOOK_S)

    def _between_steps(self, loop: SolverLoop) -> None:
        if self._rooms and self._rooms[0][1].ready and self._engine is not None and self._board is not None:
            number, room = self._rooms.popleft()
            loop.settle()
            shapes = room.fill(self._engine.history())
            self._send({"history": number, "shapes": shapes, "iteration": self._board.iteration})
        loop.between_steps()

    def _wait(self, ring: BatchRing) -> None:
        waiting = select.poll()
        waiting.register(self._control.fd, select.POLLIN)
        waiting.register(ring.ready_fd, select.POLLIN)
        waiting.poll(IDLE_LOOK_S * 1000)
        ring.drain_ready()

    def _handle(self, message: dict[str, Any], fds: list[int]) -> None:
        self._life = int(message.get("life", self._life))
        if "build" in message:
            self._build(message, fds)
        elif "start" in message:
            self._start(message, fds)
        elif "history" in message and self._engine is not None:
            size = 4 * self._engine.layout.size
            self._rooms.append((message["history"], HistoryRoom(fds[0], size)))
        elif "stop" in message:
            if self._loop is not None:
                self._loop.settle()
            self._end_life(0)

    def _build(self, message: dict[str, Any], fds: list[int]) -> None:
        self._spec = read_fields(EngineSpec, message["build"], "engine")
        self._schedule = read_fields(RateSchedule, message["schedule"], "schedule")
        self.ring = BatchRing.attach(fds)
        self.place = self._spec.place
        self._engine = self._make_engine(self._spec)
        self._send({"layout": self._engine.layout.to_record()})

    def _start(self, message: dict[str, Any], fds: list[int]) -> None:
        if self._engine is None or self.ring is None:
            return
        self._board = WeightBoard.attach(fds[0], present=True)
        self.passes = int(message["passes"])

        def displayed(what: Displayed) -> None:
            self._send({"displayed": what.number, "lines": what.lines})

        def noticed(line: str) -> None:
            self._send({"notice": line})

        loop = SolverLoop(
            self._engine,
            self._spec,
            self._schedule,
            self.ring,
            self._board,
            time.monotonic,
            displayed,
            noticed,
        )
        if self._lives:
            self._engine.forget_momentum()
        if message.get("history"):
            self._engine.load_history(message["history"])
        loop.start(fresh=message["start"] == "fresh", passes=self.passes)
        self._loop = loop
        self._lives += 1
        self.failed = None
        self._send({"started": True})

    def _end_life(self, code: int | None = None) -> None:
        """Let go of all that the life had, and then tell the agent ``code``: an agent that heard it may rely on it."""
        self._loop = None
        self._engine = None
        self._rooms.clear()
        self._board = None  # not closed: a GPU may have locked its pages
        if self.ring is not None:
            self.ring.close()
            self.ring = None
        if code is not None:
            self._send({"ended": code})

    def _send(self, message: dict[str, Any]) -> None:
        self._control.send({**message, "life": self._life})
