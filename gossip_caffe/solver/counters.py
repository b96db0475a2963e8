"""The words in a weight board's header that a solver and its agent tell each other at every step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.sharedmem import SharedMemory

HEADER_BYTES = 4096
VERSION = 9
"""Word of the newest snapshot's version."""
_ITERATION, _BATCHES, _SAMPLES = 10, 11, 12
_OTHERS_SAMPLES, _PUBLISH_REQUESTED, _FLUSH = 17, 18, 19
# Words of the header read as float64.
_LOSS, _RATE, _STALLED_S, _STEP_S = 24, 25, 26, 27
RATE_FACTOR = 32


class Counters:
    """The header, as one process sees it; each word has one writer. board.py says what that relies on."""

    def __init__(self, memory: SharedMemory) -> None:
        self._words: NDArray[np.int64] = np.frombuffer(memory.view, np.int64, HEADER_BYTES // 8)
        self._reals: NDArray[np.float64] = np.frombuffer(memory.view, np.float64, HEADER_BYTES // 8)

    @property
    def iteration(self) -> int:
        """Iterations that the live weights have made."""
        return int(self._words[_ITERATION])

    @property
    def batches(self) -> int:
        """Batches that the live weights have trained: the next one's number."""
        return int(self._words[_BATCHES])

    @property
    def samples(self) -> int:
        """Records that the live weights have trained, by this peer."""
        return int(self._words[_SAMPLES])

    @property
    def loss(self) -> float:
        """Loss of the last iteration; 0.0 before the first."""
        return float(self._reals[_LOSS])

    @property
    def learning_rate(self) -> float:
        """Rate of the last iteration."""
        return float(self._reals[_RATE])

    @property
    def stalled_s(self) -> float:
        """Seconds that the solver has waited for batches while it had none."""
        return float(self._reals[_STALLED_S])

    @property
    def step_s(self) -> float:
        """Running mean of the seconds of an iteration."""
        return float(self._reals[_STEP_S])

    @property
    def others_samples(self) -> int:
        """Agent's word: samples of the job that others have trained."""
        return int(self._words[_OTHERS_SAMPLES])

    @property
    def rate_factor(self) -> float:
        """Agent's word: what the schedule's rate is multiplied by."""
        return float(self._reals[RATE_FACTOR])

    def set_pace(self, others_samples: int, rate_factor: float) -> None:
        """Agent: where the job is without this peer, and what its rate is multiplied by."""
        self._words[_OTHERS_SAMPLES] = others_samples
        self._reals[RATE_FACTOR] = rate_factor

    @property
    def flush(self) -> bool:
        """Agent's word: train what is there although an iteration is not full."""
        return bool(self._words[_FLUSH])

    def set_flush(self, flush: bool) -> None:
        """Agent: whether a short iteration is to be trained rather than waited for."""
        self._words[_FLUSH] = int(flush)

    def request_publication(self) -> None:
        """Agent: publish after the current step."""
        self._words[_PUBLISH_REQUESTED] = self._words[VERSION] + 1

    @property
    def publication_requested(self) -> bool:
        """Solver: a snapshot newer than the last is asked for."""
        return int(self._words[_PUBLISH_REQUESTED]) > int(self._words[VERSION])

    def note_step(
        self, iteration: int, batches: int, samples: int, loss: float, rate: float, step_s: float
    ) -> None:
        """Solver: the live weights have made a step."""
        self._words[_ITERATION] = iteration
        self._words[_SAMPLES] = samples
        self._reals[_LOSS], self._reals[_RATE] = loss, rate
        self._reals[_STEP_S] = (
            step_s if not self._reals[_STEP_S] else 0.9 * self._reals[_STEP_S] + 0.1 * step_s
        )
        self._words[_BATCHES] = batches

    def note_batches(self, batches: int) -> None:
        """Solver: so many batches are behind it, the last ones without a step."""
        self._words[_BATCHES] = batches

    def note_stall(self, seconds: float) -> None:
        """Solver: it waited for a batch."""
        self._reals[_STALLED_S] += seconds
