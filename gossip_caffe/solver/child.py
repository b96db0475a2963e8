"""The solver process: owns the engine, steps while there are batches, adds corrections between two steps.

Messages to it: {"build": EngineSpec, "schedule": RateSchedule} with the ring's descriptors; {"start": "fresh" |
"board"} with the board's; {"stop": true}. From it: {"layout": […]}, {"started": true}, and {"failed": one line,
"remedy": …} before it ends with exit code 7. What changes with every step is in the board's counters.
"""

from __future__ import annotations

import argparse
import math
import select
import signal
import sys
import time
from typing import Any

import numpy as np

from gossip_caffe.children import Control
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import ExitCode, GossipCaffeError, ModelError
from gossip_caffe.job.learning_rate import rate
from gossip_caffe.job.spec import RateSchedule, read_fields
from gossip_caffe.processes import die_with_parent
from gossip_caffe.solver.board import Flat, WeightBoard
from gossip_caffe.solver.engine import EngineSpec, SolverEngine
from gossip_caffe.solver.publishing import publication

IDLE_LOOK_S = 0.02
"""How often an idle solver looks for corrections: peers go on averaging when the data is used up."""


def make_engine(spec: EngineSpec, ring: BatchRing) -> SolverEngine:
    """The engine that the job asks for; Caffe is imported only here, in this process."""
    if spec.engine == "numpy":
        from gossip_caffe.solver.numpy_engine import NumpyEngine  # noqa: PLC0415

        return NumpyEngine(spec, ring)
    from gossip_caffe.solver.pycaffe_engine import PycaffeEngine  # noqa: PLC0415

    return PycaffeEngine(spec, ring)


class SolverLoop:
    """Stepping, correcting, publishing: everything between two messages."""

    def __init__(
        self,
        engine: SolverEngine,
        spec: EngineSpec,
        schedule: RateSchedule,
        ring: BatchRing,
        board: WeightBoard,
    ) -> None:
        self._engine = engine
        self._spec = spec
        self._schedule = schedule
        self._ring = ring
        self._board = board
        self._iteration = self._batches = self._samples = 0
        self._published_at = -math.inf
        self._copy_s = 0.0
        self._corrected = self._dirty = False

    def start(self, *, fresh: bool) -> None:
        """Load the board's newest snapshot, or with ``fresh`` publish the engine's own first weights."""
        if not fresh:
            weights: Flat = np.empty(self._board.size, dtype=np.float32)
            info = self._board.restore(weights)
            self._engine.write_weights(weights)
            self._iteration, self._batches, self._samples = info.iteration, info.batches, info.samples
        self._publish()

    @property
    def batches_due(self) -> int:
        """Batches for the iteration that can be made now; 0 when there are too few."""
        ready = self._ring.ready
        if ready >= self._spec.iter_size:
            return self._spec.iter_size
        return ready if self._board.flush else 0

    def between_steps(self) -> None:
        """Add a waiting correction, and publish if that is due."""
        correction = self._board.waiting_correction()
        if correction is not None:
            self._engine.add_to_weights(correction)
            self._board.correction_applied()
            self._corrected = True
        if not (self._dirty or self._corrected):
            return
        now = time.monotonic()
        decision = publication(
            since_last_s=now - self._published_at,
            copy_s=self._copy_s,
            requested=self._board.publication_requested,
            corrected=self._corrected,
        )
        if decision.due:
            self._publish()

    def settle(self) -> None:
        """Publish whatever is not published yet: nothing more is coming for now."""
        if self._dirty or self._corrected:
            self._publish()

    def step(self, batches: int) -> None:
        """One iteration. Raises ModelError when the loss is not finite."""
        records = sum(self._ring.records_of(self._ring.tail + index) for index in range(batches))
        progress = self._board.others_samples + self._samples
        iteration = progress // (self._spec.batch_records * self._spec.iter_size)
        learning_rate = rate(self._schedule, iteration) * self._board.rate_factor
        started = time.monotonic()
        loss = self._engine.step(self._ring, batches, learning_rate)
        if not math.isfinite(loss):
            raise ModelError(
                f"training diverged: loss {loss} at iteration {self._iteration}, learning rate {learning_rate:g}",
                remedy="lower base_lr, set clip_gradients, or create the job with --set lr_scaling=none",
            )
        self._iteration += 1
        self._batches += batches
        self._samples += records
        self._dirty = True
        self._board.note_step(
            self._iteration, self._batches, self._samples, loss, learning_rate, time.monotonic() - started
        )

    def _publish(self) -> None:
        started = time.monotonic()
        self._engine.read_weights(self._board.next_slot())
        self._board.publish_slot(iteration=self._iteration, batches=self._batches, samples=self._samples)
        self._published_at = time.monotonic()
        self._copy_s = self._published_at - started
        self._corrected = self._dirty = False


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
    loop = SolverLoop(engine, spec, schedule, ring, board)
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
        return ExitCode.MODEL
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
