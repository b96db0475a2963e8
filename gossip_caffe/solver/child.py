"""The solver process: owns the engine, steps while there are batches, adds corrections between two steps.

Messages to it: {"build": EngineSpec, "schedule": RateSchedule} with the ring's descriptors; {"start": "fresh" |
"board", "history": path or ""} with the board's; {"history": number} with a descriptor to write momentum to;
{"stop": true}. From it: {"layout": […]}, {"started": true}, {"history": number, "shapes": […], "iteration": …}, and
{"failed": one line, "remedy": …} before it ends with that error's exit code. What changes with every step is in the
board's counters.
"""

from __future__ import annotations

import math
import select
import sys
import time
from collections import deque
from typing import Any

from gossip_caffe.children import Control, run_child
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.job.spec import RateSchedule, read_fields
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.solver.engine import EngineSpec, SolverEngine
from gossip_caffe.solver.history import HistoryRoom
from gossip_caffe.solver.loop import SolverLoop

IDLE_LOOK_S = 0.02
"""How often an idle solver looks for corrections: peers go on averaging when the data is used up."""


def make_engine(spec: EngineSpec, ring: BatchRing) -> SolverEngine:
    """The engine that the job asks for; Caffe is imported only here, in this process."""
    if spec.engine == "numpy":
        from gossip_caffe.solver.numpy_engine import NumpyEngine  # noqa: PLC0415

        return NumpyEngine(spec, ring)
    from gossip_caffe.solver.pycaffe_engine import PycaffeEngine  # noqa: PLC0415

    return PycaffeEngine(spec, ring)


def serve(control: Control) -> None:
    """Build, start, and step until told to stop."""
    message, fds = _received(control)
    spec = read_fields(EngineSpec, message["build"], "engine")
    schedule = read_fields(RateSchedule, message["schedule"], "schedule")
    ring = BatchRing.attach(fds)
    engine = make_engine(spec, ring)
    control.send({"layout": engine.layout.to_record()})
    message, fds = _received(control)
    board = WeightBoard.attach(fds[0], present=True)
    loop = SolverLoop(engine, spec, schedule, ring, board, time.monotonic)
    if message.get("history"):
        engine.load_history(message["history"])
    loop.start(fresh=message["start"] == "fresh")
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
        loop.between_steps()
        if batches := loop.batches_due:
            loop.step(batches)
            continue
        loop.settle()
        stalled_at = time.monotonic()
        waiting.poll(IDLE_LOOK_S * 1000)
        ring.drain_ready()
        board.note_stall(time.monotonic() - stalled_at)
    loop.settle()


def _received(control: Control) -> tuple[dict[str, Any], list[int]]:
    received = control.receive(None)
    if received is None or "stop" in received[0]:
        raise EOFError("told to stop before it began")
    return received


def main() -> int:
    """Entry of the process."""
    return run_child(serve)


if __name__ == "__main__":
    sys.exit(main())
