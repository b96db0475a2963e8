"""The words in a weight board's header through which a solver and its agent inform each other at every step.

Each property names its writer: the solver, or the agent.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.observe.metrics.figures import Durations
from gossip_caffe.observe.metrics.table import STEP_BUCKETS_S
from gossip_caffe.system import ordering
from gossip_caffe.system.sharedmem import SharedMemory

HEADER_BYTES = 4096
VERSION = 9
"""Index of the word with the newest snapshot's version."""
_ITERATION, _BATCHES, _SAMPLES, _HELD = 10, 11, 12, 13
_CORRECTED, _DIVERGED = 14, 15
_AT_GATE = 22
_OTHERS_SAMPLES, _PUBLISH_REQUESTED, _FLUSH, _HOLD, _GATE = 17, 18, 19, 20, 21
# Indices of header words that hold a float64.
_LOSS, _RATE, _STALLED_S, _STEP_S, _ROUND_WAIT_S = 24, 25, 26, 27, 28
RATE_FACTOR = 32
# The durations of iterations: the float64 word of their sum, and the first of the words that count them by buckets.
_STEPS_S, _STEP_COUNTS = 33, 128
_CLIP = 34  # a float64


class BoardHeader:
    """A mapping of the header in one process. Each word has one writer; board.py explains the order of stores."""

    def __init__(self, memory: SharedMemory) -> None:
        self._words: NDArray[np.int64] = np.frombuffer(memory.view, np.int64, HEADER_BYTES // 8)
        self._reals: NDArray[np.float64] = np.frombuffer(memory.view, np.float64, HEADER_BYTES // 8)

    @property
    def iteration(self) -> int:
        """Written by the solver: the iterations that the live weights have made."""
        return int(self._words[_ITERATION])

    @property
    def batches(self) -> int:
        """Written by the solver: the batches that the live weights have trained, which is the next batch's number."""
        return int(self._words[_BATCHES])

    @property
    def corrected_at(self) -> int | None:
        """Written by the solver: its iteration when it added its newest correction; None: it has added none."""
        word = int(self._words[_CORRECTED])
        return word - 1 if word else None

    def note_corrected(self, iteration: int) -> None:
        """Solver: note that a correction was added after ``iteration`` iterations."""
        self._words[_CORRECTED] = iteration + 1

    @property
    def diverged_at(self) -> int | None:
        """Written by the solver: its iteration when the loss was not finite; None: every loss was finite."""
        word = int(self._words[_DIVERGED])
        return word - 1 if word else None

    def note_diverged(self, iteration: int) -> None:
        """Solver: note that the loss after ``iteration`` iterations is not finite; the solver ends then."""
        self._words[_DIVERGED] = iteration + 1

    def forget_trouble(self) -> None:
        """Agent, while no solver runs: clear ``corrected_at`` and ``diverged_at``, as the weights were replaced."""
        self._words[_CORRECTED] = self._words[_DIVERGED] = 0

    @property
    def samples(self) -> int:
        """Written by the solver: the records that this peer has trained into the live weights."""
        return int(self._words[_SAMPLES])

    @property
    def loss(self) -> float:
        """Written by the solver: the loss of the last iteration; 0.0 before the first."""
        return float(self._reals[_LOSS])

    @property
    def learning_rate(self) -> float:
        """Written by the solver: the learning rate of the last iteration."""
        return float(self._reals[_RATE])

    @property
    def stalled_s(self) -> float:
        """Written by the solver: the seconds for which it has waited for batches."""
        return float(self._reals[_STALLED_S])

    @property
    def step_s(self) -> float:
        """Written by the solver: the running mean of an iteration's seconds (newest: weight 0.1)."""
        return float(self._reals[_STEP_S])

    @property
    def steps(self) -> Durations:
        """Written by the solver: the durations of all iterations, in the buckets of ``STEP_BUCKETS_S``."""
        counts = self._words[_STEP_COUNTS : _STEP_COUNTS + len(STEP_BUCKETS_S) + 1].tolist()
        return Durations(tuple(counts), float(self._reals[_STEPS_S]))

    @property
    def others_samples(self) -> int:
        """Written by the agent: the job's samples that other peers have trained."""
        return int(self._words[_OTHERS_SAMPLES])

    @property
    def rate_factor(self) -> float:
        """Written by the agent: the factor on the schedule's learning rate."""
        return float(self._reals[RATE_FACTOR])

    def set_pace(self, others_samples: int, rate_factor: float) -> None:
        """Agent: set the samples that other peers have trained, and the factor on the learning rate."""
        self._words[_OTHERS_SAMPLES] = others_samples
        self._reals[RATE_FACTOR] = rate_factor

    @property
    def clip(self) -> float:
        """Written by the agent: the limit of the gradient's length, beside the solver's own; 0.0: there is none."""
        return float(self._reals[_CLIP])

    def set_clip(self, limit: float) -> None:
        """Agent: set the limit of the gradient's length; 0.0: none."""
        self._reals[_CLIP] = limit

    @property
    def flush(self) -> bool:
        """Written by the agent: True if an iteration is to be trained although it lacks batches."""
        return bool(self._words[_FLUSH])

    def set_flush(self, flush: bool) -> None:
        """Agent: let the solver train a short iteration (True), or wait until its batches are complete (False)."""
        self._words[_FLUSH] = int(flush)

    @property
    def hold(self) -> int | None:
        """Written by the agent: the job's samples from which on the solver takes no step; None: it goes on."""
        word = int(self._words[_HOLD])
        return word - 1 if word else None

    def set_hold(self, samples: int | None) -> None:
        """Agent: let the solver hold when the job has trained ``samples`` samples (0: now); None: let it go on."""
        self._words[_HOLD] = 0 if samples is None else samples + 1

    @property
    def held(self) -> bool:
        """Written by the solver: True if it holds as ``hold`` now says, and its newest snapshot is of that moment."""
        word = int(self._words[_HOLD])
        return word != 0 and int(self._words[_HELD]) == word

    def note_held(self, samples: int | None) -> None:
        """Solver: note that it holds for the agent's ``samples``, with all weights published; None: it goes on."""
        self._words[_HELD] = 0 if samples is None else samples + 1

    @property
    def gate(self) -> int | None:
        """Written by the agent: the iterations after which the solver waits for a round; None: it does not wait."""
        word = int(self._words[_GATE])
        return word - 1 if word else None

    def set_gate(self, iteration: int | None) -> None:
        """Agent: let the solver wait once it has made ``iteration`` iterations; None: let it go on.

        A correction that was offered before is added before the next step.
        """
        ordering.fence()
        self._words[_GATE] = 0 if iteration is None else iteration + 1

    @property
    def at_gate(self) -> bool:
        """Written by the solver: True if it waits at the present gate, and its newest snapshot is of that moment."""
        word = int(self._words[_GATE])
        return word != 0 and int(self._words[_AT_GATE]) == word

    def note_at_gate(self, gate: int | None) -> None:
        """Solver: note that it waits at this gate, with all weights published; None: it goes on."""
        ordering.fence()
        self._words[_AT_GATE] = 0 if gate is None else gate + 1

    @property
    def round_wait_s(self) -> float:
        """Written by the solver: the seconds for which it has waited for rounds."""
        return float(self._reals[_ROUND_WAIT_S])

    def note_round_wait(self, seconds: float) -> None:
        """Solver: note that it waited ``seconds`` at a gate."""
        self._reals[_ROUND_WAIT_S] += seconds

    @property
    def job_samples(self) -> int:
        """The job's samples that all peers have trained, as far as this peer knows."""
        return self.others_samples + self.samples

    def request_publication(self) -> None:
        """Agent: ask the solver to publish a snapshot after its current step."""
        self._words[_PUBLISH_REQUESTED] = self._words[VERSION] + 1

    @property
    def publication_requested(self) -> bool:
        """True if the agent has asked for a snapshot newer than the last one."""
        return int(self._words[_PUBLISH_REQUESTED]) > int(self._words[VERSION])

    def note_step(
        self, iteration: int, batches: int, samples: int, loss: float, rate: float, step_s: float
    ) -> None:
        """Solver: write the counters and figures of the step that was just made; ``step_s``: its seconds."""
        self._words[_STEP_COUNTS + bisect_left(STEP_BUCKETS_S, step_s)] += 1
        self._reals[_STEPS_S] += step_s
        self._reals[_LOSS], self._reals[_RATE] = loss, rate
        self._reals[_STEP_S] = (
            step_s if not self._reals[_STEP_S] else 0.9 * self._reals[_STEP_S] + 0.1 * step_s
        )
        self._set_counters(iteration, batches, samples)

    def _set_counters(self, iteration: int, batches: int, samples: int) -> None:
        self._words[_ITERATION] = iteration
        self._words[_SAMPLES] = samples
        self._words[_BATCHES] = batches

    def note_batches(self, batches: int) -> None:
        """Solver: note that ``batches`` batches are consumed, the last ones without a step."""
        self._words[_BATCHES] = batches

    def note_stall(self, seconds: float) -> None:
        """Solver: note that it waited ``seconds`` for a batch."""
        self._reals[_STALLED_S] += seconds
