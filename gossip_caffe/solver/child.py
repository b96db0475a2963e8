"""The solver process: owns the engine, steps while there are batches, adds corrections between two steps.

Messages to it: {"build": EngineSpec, "schedule": RateSchedule} with the ring's descriptors; {"start": "fresh" |
"board"} with the board's; {"stop": true}. From it: {"layout": […]}, {"started": true}, and {"failed": one line,
"remedy": …} before it ends with that error's exit code. What changes with every step is in the board's counters.
"""

from __future__ import annotations

import argparse
import select
import signal
import sys
import time
from typing import Any

from gossip_caffe.children import Control
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import ExitCode, GossipCaffeError
from gossip_caffe.job.spec import RateSchedule, read_fields
from gossip_caffe.processes import die_with_parent
from gossip_caffe.solver.board import WeightBoard
from gossip_caffe.solver.engine import EngineSpec, SolverEngine
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
    board = WeightBoard.attach(fds[0])
    loop = SolverLoop(engine, spec, schedule, ring, board, time.monotonic)
    loop.start(fresh=message["start"] == "fresh")
    control.send({"started": True})
    waiting = select.poll()
    waiting.register(control.fd, select.POLLIN)
    waiting.register(ring.ready_fd, select.POLLIN)
    while (received := control.receive(0.0)) is None or "stop" not in received[0]:
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
    parser = argparse.ArgumentParser()
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    die_with_parent(options.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the agent's to decide
    control = Control(options.control_fd)
    try:
        serve(control)
    except EOFError:
        return ExitCode.OK
    except GossipCaffeError as error:
        control.send({"failed": error.message, "remedy": error.remedy})
        return error.exit_code
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
