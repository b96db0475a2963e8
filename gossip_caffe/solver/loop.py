"""What a solver does between two messages: step, add corrections, publish. Reads no clock but the one it is given."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import ModelError
from gossip_caffe.job.learning_rate import rate
from gossip_caffe.job.spec import RateSchedule
from gossip_caffe.mixing import mixed
from gossip_caffe.solver.board import Flat, WeightBoard
from gossip_caffe.solver.engine import EngineSpec, SolverEngine
from gossip_caffe.solver.publishing import publication


class SolverLoop:
    """Stepping, correcting, publishing: everything between two messages."""

    def __init__(
        self,
        engine: SolverEngine,
        spec: EngineSpec,
        schedule: RateSchedule,
        ring: BatchRing,
        board: WeightBoard,
        monotonic: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._spec = spec
        self._schedule = schedule
        self._ring = ring
        self._board = board
        self._monotonic = monotonic
        self._iteration = self._batches = self._samples = 0
        self._published_at = -math.inf
        self._copy_s = 0.0
        self._corrected = self._dirty = False
        engine.lend(board.memory)

    def start(self, *, fresh: bool) -> None:
        """Load the board's newest snapshot, or with ``fresh`` publish the engine's own first weights.

        Whoever draws the first weights goes on with the random numbers that follow them, as Caffe does; all others
        draw their own, and a solver that was started again draws new ones.
        """
        if not fresh:
            weights: Flat = np.empty(self._board.size, dtype=np.float32)
            info = self._board.restore(weights)
            self._engine.write_weights(weights)
            self._iteration, self._batches, self._samples = info.iteration, info.batches, info.samples
            drawn = np.array([self._spec.noise_seed, info.batches + (1 << 40)], dtype=np.uint64)
            self._engine.draw_noise_from(int(np.bitwise_xor.reduce(mixed(drawn)) >> np.uint64(33)))
        else:
            self._engine.load_first_weights()
        self._publish()

    @property
    def batches_due(self) -> int:
        """Batches for the iteration that can be made now; 0 when there are too few."""
        self._pass_over_empty()
        ready, wanted = self._ring.ready, self._spec.iter_size
        for index in range(min(ready, wanted)):
            if not self._ring.records_of(self._ring.tail + index):
                return index  # an empty batch ends the iteration early
        if ready >= wanted:
            return wanted
        return ready if self._board.flush else 0

    def _pass_over_empty(self) -> None:
        """Batches of which every record was corrupt train nothing."""
        while self._ring.ready and not self._ring.records_of(self._ring.tail):
            self._ring.release()
            self._batches += 1
            self._dirty = True
            self._board.note_batches(self._batches)

    def between_steps(self) -> None:
        """Add a waiting correction, and publish if that is due."""
        correction = self._board.waiting_correction()
        if correction is not None:
            self._engine.add_to_weights(correction)
            self._board.correction_applied()
            self._corrected = True
        if not (self._dirty or self._corrected):
            return
        now = self._monotonic()
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
        learning_rate = (
            rate(self._schedule, self._schedule.first_iteration + iteration) * self._board.rate_factor
        )
        started = self._monotonic()
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
            self._iteration, self._batches, self._samples, loss, learning_rate, self._monotonic() - started
        )

    def _publish(self) -> None:
        started = self._monotonic()
        self._engine.read_weights(self._board.next_slot())
        self._board.publish_slot(iteration=self._iteration, batches=self._batches, samples=self._samples)
        self._published_at = self._monotonic()
        self._copy_s = self._published_at - started
        self._corrected = self._dirty = False
