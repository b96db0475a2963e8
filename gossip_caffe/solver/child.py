"""The solver process: it owns the engine, steps while there are batches, and adds corrections between two steps.

Messages to it: {"build": EngineSpec, "schedule": RateSchedule} with the ring's descriptors; {"start": "fresh" |
"board", "history": path or "", "passes": passes made before} with the board's descriptor; {"history": number} with a
descriptor for the momentum; {"stop": true}. Messages from it: {"layout": […]}, {"started": true}, {"history": number,
"shapes": […], "iteration": …}, {"displayed": number, "lines": […]}, {"notice": one line}, and {"failed": one line,
"remedy": …} before it ends with that error's exit code. Values that change with every step are in the board's header.
"""

from __future__ import annotations

import math
import select
import sys
import time
from collections import deque
from typing import Any

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.job.spec.spec import RateSchedule, read_fields
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.solver.engines.display import Displayed
from gossip_caffe.solver.engines.engine import EngineSpec, SolverEngine
from gossip_caffe.solver.history import HistoryRoom
from gossip_caffe.solver.loop import SolverLoop
from gossip_caffe.system.control import Control, run_child

IDLE_LOOK_S = 0.02
"""The period in which a solver without batches looks for corrections: peers average also when no data is left."""

GATE_LOOK_S = 0.001
"""The period in which a solver that waits for a round checks if it may go on."""

HOLD_LOOK_S = 0.005
"""The period in which a solver that holds checks if it may go on."""


def make_engine(spec: EngineSpec, ring: BatchRing) -> SolverEngine:
    """Make the engine that ``spec.engine`` names. Caffe is imported only here, in this process."""
    if spec.engine == "numpy":
        from gossip_caffe.solver.engines.numpy_engine import NumpyEngine  # noqa: PLC0415

        return NumpyEngine(spec, ring)
    from gossip_caffe.solver.engines.pycaffe_engine import PycaffeEngine  # noqa: PLC0415

    return PycaffeEngine(spec, ring)


def serve(control: Control) -> None:
    """Build the net, start, and step until the agent sends "stop"."""
    message, fds = _received(control)
    spec = read_fields(EngineSpec, message["build"], "engine")
    schedule = read_fields(RateSchedule, message["schedule"], "schedule")
    ring = BatchRing.attach(fds)
    engine = make_engine(spec, ring)
    control.send({"layout": engine.layout.to_record()})
    message, fds = _received(control)
    board = WeightBoard.attach(fds[0], present=True)

    def displayed(what: Displayed) -> None:
        control.send({"displayed": what.number, "lines": what.lines})

    def noticed(line: str) -> None:
        control.send({"notice": line})

    loop = SolverLoop(engine, spec, schedule, ring, board, time.monotonic, displayed, noticed)
    if message.get("history"):
        engine.load_history(message["history"])
    loop.start(fresh=message["start"] == "fresh", passes=message["passes"])
    control.send({"started": True})
    waiting = select.poll()
    waiting.register(control.fd, select.POLLIN)
    waiting.register(ring.ready_fd, select.POLLIN)
    rooms: deque[tuple[int, HistoryRoom]] = deque()
    history_bytes = 4 * engine.layout.size
    while (received := control.receive(0.0)) is None or "stop" not in received[0]:
        if received is not None and "history" in received[0]:
            rooms.append((received[0]["history"], HistoryRoom(received[1][0], history_bytes)))
        if rooms and rooms[0][1].ready:
            number, room = rooms.popleft()
            loop.settle()
            shapes = room.fill(engine.history())
            history_bytes = 4 * sum(map(math.prod, shapes))
            control.send({"history": number, "shapes": shapes, "iteration": board.iteration})
        waits = loop.waits_for_round  # before corrections are looked for: the gate opens after one is offered
        loop.between_steps()
        if waits:
            board.note_round_wait(_waited_s(waiting, ring, GATE_LOOK_S))
            continue
        if loop.holds:
            _waited_s(waiting, ring, HOLD_LOOK_S)
            continue
        if batches := loop.batches_due:
            loop.step(batches)
            continue
        loop.settle()
        board.note_stall(_waited_s(waiting, ring, IDLE_LOOK_S))
    loop.settle()


def _waited_s(waiting: select.poll, ring: BatchRing, most_s: float) -> float:
    """Wait until a message or a batch is there, at most ``most_s``; returns the seconds that this took."""
    began = time.monotonic()
    waiting.poll(most_s * 1000)
    ring.drain_ready()
    return time.monotonic() - began


def _received(control: Control) -> tuple[dict[str, Any], list[int]]:
    received = control.receive(None)
    if received is None or "stop" in received[0]:
        raise EOFError("the agent stopped this solver before it started")
    return received


def main() -> int:
    """Entry of the process."""
    return run_child(serve)


if __name__ == "__main__":
    sys.exit(main())
