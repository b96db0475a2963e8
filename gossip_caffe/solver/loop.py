"""The solver's loop between two messages: step, add corrections, publish. It reads only the clock that it is given."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import ModelError
from gossip_caffe.job.spec.learning_rate import rate
from gossip_caffe.job.spec.spec import RateSchedule
from gossip_caffe.mixing import mixed
from gossip_caffe.solver.board import Flat, WeightBoard
from gossip_caffe.solver.engines.display import Display, Displayed
from gossip_caffe.solver.engines.engine import EngineSpec, SolverEngine
from gossip_caffe.solver.engines.stuck_loss import StuckLoss
from gossip_caffe.solver.publishing import publication

DIVERGED = "training diverged: "
"""The beginning of the error of a solver whose loss is not finite, unless another peer's weights may be the cause."""
FOREIGN_STEPS = 64
"""A loss that is not finite at most this many steps after a correction may be caused by the partner's weights."""


class SolverLoop:
    """The loop of one solver: steps, corrections and publications.

    ``displayed`` is called with the lines that Caffe would print, ``noticed`` with one line that the user should know.
    ``monotonic``: the clock, in seconds.
    """

    def __init__(
        self,
        engine: SolverEngine,
        spec: EngineSpec,
        schedule: RateSchedule,
        ring: BatchRing,
        board: WeightBoard,
        monotonic: Callable[[], float],
        displayed: Callable[[Displayed], None] = lambda _: None,
        noticed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._spec = spec
        self._schedule = schedule
        self._ring = ring
        self._board = board
        self._monotonic = monotonic
        self._iteration = self._batches = self._samples = 0
        self._rated_at, self._rate = (-1, 0.0), 0.0
        self._clip = 0.0
        self._display = Display(spec.display, spec.average_loss)
        self._displayed = displayed
        self._stuck = StuckLoss()
        self._noticed = noticed
        self._published_at = -math.inf
        self._copy_s = 0.0
        self._corrected = self._dirty = False
        engine.lend(board.memory)

    def start(self, *, fresh: bool, passes: int = 0) -> None:
        """Load the board's newest snapshot, or with ``fresh`` publish the engine's own first weights.

        The solver that draws the first weights continues with the random numbers that follow them, as Caffe does.
        Every other solver draws its own random numbers, and a restarted solver draws new ones. ``passes``: the passes
        of this peer's rank that were made before its first one.
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
        self._engine.skip(passes + self._batches)
        self._publish()

    @property
    def batches_due(self) -> int:
        """The number of batches of the next iteration; 0 when the ring holds too few batches for it."""
        self._pass_over_empty()
        ready, wanted = self._ring.ready, self._spec.iter_size
        for index in range(min(ready, wanted)):
            if not self._ring.records_of(self._ring.tail + index):
                return index  # an empty batch ends the iteration early
        if ready >= wanted:
            return wanted
        return ready if self._board.flush else 0

    def _pass_over_empty(self) -> None:
        """Release batches without records: all records of such a batch were corrupt, so it trains nothing."""
        while self._ring.ready and not self._ring.records_of(self._ring.tail):
            self._ring.release()
            self._batches += 1
            self._dirty = True
            self._board.note_batches(self._batches)

    def between_steps(self) -> None:
        """Add a waiting correction to the weights, and publish a snapshot if it is due."""
        correction = self._board.waiting_correction()
        if correction is not None:
            self._engine.add_to_weights(correction)
            self._board.correction_applied()
            self._board.note_corrected(self._iteration)
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

    @property
    def holds(self) -> bool:
        """True if the agent wants no step now: the job has reached a test or a snapshot. Publishes all weights then."""
        hold = self._board.hold
        if hold is None or self._board.others_samples + self._samples < hold:
            self._board.note_held(None)
            return False
        self.settle()
        self._board.note_held(hold)
        return True

    @property
    def waits_for_round(self) -> bool:
        """True if the agent wants no step now: a round is due. Publishes all weights then.

        A correction that the agent offered before it opened the gate is added by the next ``between_steps``.
        """
        gate = self._board.gate
        if gate is None or self._iteration < gate:
            self._board.note_at_gate(None)
            return False
        self.settle()
        self._board.note_at_gate(gate)
        return True

    def settle(self) -> None:
        """Publish the weights if they have changed since the last snapshot, because no step follows soon."""
        if self._dirty or self._corrected:
            self._publish()

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next iteration, by the job's schedule at its global progress."""
        at = self._job_iteration, self._board.rate_factor
        if at != self._rated_at:  # a script asks twice for each step
            self._rated_at, self._rate = at, rate(self._schedule, at[0]) * at[1]
        return self._rate

    def clip_as_told(self) -> None:
        """Let the engine limit the gradients of the next step as the agent says."""
        if (clip := self._board.clip) != self._clip:
            self._engine.clip_gradients(clip)
            self._clip = clip

    @property
    def _job_iteration(self) -> int:
        """The number of the job's next iteration."""
        progress = self._board.others_samples + self._samples
        return self._schedule.first_iteration + progress // (self._spec.batch_records * self._spec.iter_size)

    def step(self, batches: int, took_s: float | None = None) -> None:
        """Train one iteration on the next ``batches`` batches. Raises ModelError when the loss is not finite.

        ``took_s``: the seconds that it took, where the engine only tells of an iteration that was made already.
        """
        records = sum(self._ring.records_of(self._ring.tail + index) for index in range(batches))
        iteration, learning_rate = self._job_iteration, self.learning_rate
        self.clip_as_told()
        started = self._monotonic()
        loss = self._engine.step(self._ring, batches, learning_rate)
        if took_s is None:
            took_s = self._monotonic() - started
        if not math.isfinite(loss):
            self._board.note_diverged(self._iteration)
            raise ModelError(
                f"{DIVERGED}loss {loss} at iteration {self._iteration}, learning rate {learning_rate:g}",
                remedy="lower base_lr, set clip_gradients, or create the job with --set lr_scaling=none",
            )
        if line := self._stuck.note(loss, records, self._engine.outputs):
            self._noticed(line)
        if self._display.due(iteration, loss):
            self._displayed(self._display.of(iteration, self._engine.outputs(), learning_rate))
        self._iteration += 1
        self._batches += batches
        self._samples += records
        self._dirty = True
        self._board.note_step(self._iteration, self._batches, self._samples, loss, learning_rate, took_s)

    def _publish(self) -> None:
        started = self._monotonic()
        self._engine.read_weights(self._board.next_slot())
        self._board.publish_slot(iteration=self._iteration, batches=self._batches, samples=self._samples)
        self._published_at = self._monotonic()
        self._copy_s = self._published_at - started
        self._corrected = self._dirty = False
