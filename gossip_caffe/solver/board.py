"""Weights between a solver and its agent, in shared memory: snapshots one way, corrections the other.

Neither side ever waits for the other. The solver copies its weights into the next of three snapshot slots and then
points at it; a reader that was too slow finds the slot's stamps changed and reads the newer one. The agent keeps what
the solver has not taken yet, and puts it into the one mailbox when that is free.

A correction leaves the mailbox only when a *published* snapshot holds it. So a solver that is killed and goes on from
its newest snapshot finds every correction that the snapshot lacks still there, and takes none of them twice.

Words are aligned and 8 bytes wide, each with one writer, so none is ever read half. The stamps, the pointer to the
newest slot and the count of offered corrections rely on one process's stores becoming visible to the other in their
order, and on loads staying in theirs: x86-64 guarantees both. arm64 does not; there a barrier belongs before each
word that announces something.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.errors import EnvironmentProblem, GossipCaffeError
from gossip_caffe.sharedmem import SharedMemory

Flat = NDArray[np.float32]
"""All weights of a net: shape (size,), float32."""

_MAGIC = 0x676F_7373_6970_0002
_HEADER_BYTES = 4096
_SLOTS = 3
# Words of the header (int64); the solver writes those of its line, the agent those of its own.
_SIZE, _EXCHANGED, _LATEST, _VERSION = 1, 2, 8, 9
_ITERATION, _BATCHES, _SAMPLES = 10, 11, 12
_OFFERED, _OTHERS_SAMPLES, _PUBLISH_REQUESTED, _FLUSH = 16, 17, 18, 19
# Words of the header read as float64.
_LOSS, _RATE, _STALLED_S, _STEP_S = 24, 25, 26, 27
_RATE_FACTOR = 32
# Words of each slot's description, from word 64 on.
_SLOT_WORDS, _SLOTS_AT = 8, 64
_BEGIN, _END, _S_VERSION, _S_ITERATION, _S_BATCHES, _S_SAMPLES, _S_APPLIED = range(7)


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """What is in a snapshot: the first ``batches`` batches, ``samples`` records, and ``applied`` corrections."""

    version: int
    iteration: int
    batches: int
    samples: int
    applied: int


class WeightBoard:
    """One board, as one process sees it."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._words: NDArray[np.int64] = np.frombuffer(memory.view, np.int64, _HEADER_BYTES // 8)
        self._reals: NDArray[np.float64] = np.frombuffer(memory.view, np.float64, _HEADER_BYTES // 8)
        if int(self._words[0]) != _MAGIC:
            raise EnvironmentProblem("the descriptor is no weight board", remedy="start the peer again")
        self.size = int(self._words[_SIZE])
        self.exchanged = int(self._words[_EXCHANGED])
        self._arrays: list[Flat] = [
            np.frombuffer(memory.view, np.float32, self.size, _HEADER_BYTES + slot * _slot_bytes(self.size))
            for slot in range(_SLOTS + 1)
        ]
        self._mailbox = self._arrays[_SLOTS][: self.exchanged]
        self._pending: Flat | None = None
        self._applied = 0

    @classmethod
    def create(cls, size: int, exchanged: int | None = None) -> WeightBoard:
        """A board for ``size`` float32 values, of which the first ``exchanged`` (None: all) may be corrected.

        Raises EnvironmentProblem when memory is short.
        """
        memory = SharedMemory.create("weights", _HEADER_BYTES + (_SLOTS + 1) * _slot_bytes(size))
        words = np.frombuffer(memory.view, np.int64, _HEADER_BYTES // 8)
        words[0], words[_SIZE] = _MAGIC, size
        words[_EXCHANGED] = size if exchanged is None else exchanged
        np.frombuffer(memory.view, np.float64, _HEADER_BYTES // 8)[_RATE_FACTOR] = 1.0
        return cls(memory)

    @classmethod
    def attach(cls, fd: int, present: bool = False) -> WeightBoard:
        """Map a board that another process made; ``present``: with all its pages, before the first step needs them."""
        return cls(SharedMemory.attach(fd, present))

    @property
    def fd(self) -> int:
        """The descriptor to hand over."""
        return self._memory.fd

    # ── counters ──────────────────────────────────────────────────────────────────────────────────────────────────

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
        return float(self._reals[_RATE_FACTOR])

    def set_pace(self, others_samples: int, rate_factor: float) -> None:
        """Agent: where the job is without this peer, and what its rate is multiplied by."""
        self._words[_OTHERS_SAMPLES] = others_samples
        self._reals[_RATE_FACTOR] = rate_factor

    @property
    def flush(self) -> bool:
        """Agent's word: train what is there although an iteration is not full."""
        return bool(self._words[_FLUSH])

    def set_flush(self, flush: bool) -> None:
        """Agent: whether a short iteration is to be trained rather than waited for."""
        self._words[_FLUSH] = int(flush)

    def request_publication(self) -> None:
        """Agent: publish after the current step."""
        self._words[_PUBLISH_REQUESTED] = self._words[_VERSION] + 1

    @property
    def publication_requested(self) -> bool:
        """Solver: a snapshot newer than the last is asked for."""
        return int(self._words[_PUBLISH_REQUESTED]) > int(self._words[_VERSION])

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

    # ── snapshots ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def published(self) -> SnapshotInfo:
        """What is in the newest snapshot; version 0 before the first."""
        while True:
            slot, stamp = self._newest()
            info = self._described(slot)
            if self._unchanged(slot, stamp):
                return info

    def publish(self, weights: Flat, *, iteration: int, batches: int, samples: int) -> int:
        """Solver: publish its live weights; returns their version. Costs one copy and waits for nobody."""
        target = self.next_slot()
        np.copyto(target, weights)
        return self.publish_slot(iteration=iteration, batches=batches, samples=samples)

    def next_slot(self) -> Flat:
        """Solver: the slot to write the next snapshot into, followed by ``publish_slot``: saves a copy."""
        slot = (int(self._words[_LATEST]) + 1) % _SLOTS
        self._words[_SLOTS_AT + slot * _SLOT_WORDS + _BEGIN] += 1
        return self._arrays[slot]

    def publish_slot(self, *, iteration: int, batches: int, samples: int) -> int:
        """Solver: what ``next_slot`` gave holds the live weights now."""
        slot = (int(self._words[_LATEST]) + 1) % _SLOTS
        at = _SLOTS_AT + slot * _SLOT_WORDS
        version = int(self._words[self._latest_at() + _S_VERSION]) + 1
        self._words[at + _S_VERSION : at + _S_APPLIED + 1] = [
            version,
            iteration,
            batches,
            samples,
            self._applied,
        ]
        self._words[at + _END] = self._words[at + _BEGIN]
        self._words[_LATEST] = slot
        self._words[_VERSION] = version
        return version

    def restore(self, out: Flat) -> SnapshotInfo:
        """Solver, at its start: the newest snapshot; corrections that it lacks are still in the mailbox."""
        info = self._read(out)
        self._applied = info.applied
        self.note_step(info.iteration, info.batches, info.samples, self.loss, self.learning_rate, self.step_s)
        # A slot that a killed solver had begun to write is simply begun anew.
        return info

    def _latest_at(self) -> int:
        return _SLOTS_AT + int(self._words[_LATEST]) * _SLOT_WORDS

    def _newest(self) -> tuple[int, int]:
        """The newest slot and its stamp; a slot that is being written anew shows by ``_unchanged`` afterwards."""
        slot = int(self._words[_LATEST])
        return slot, int(self._words[_SLOTS_AT + slot * _SLOT_WORDS + _END])

    def _unchanged(self, slot: int, stamp: int) -> bool:
        return int(self._words[_SLOTS_AT + slot * _SLOT_WORDS + _BEGIN]) == stamp

    def _described(self, slot: int) -> SnapshotInfo:
        at = _SLOTS_AT + slot * _SLOT_WORDS
        words = [int(word) for word in self._words[at + _S_VERSION : at + _S_APPLIED + 1]]
        return SnapshotInfo(*words)

    def _read(self, out: Flat) -> SnapshotInfo:
        while True:
            slot, stamp = self._newest()
            info = self._described(slot)
            np.copyto(out, self._arrays[slot][: out.size])
            if self._unchanged(slot, stamp):
                return info

    # ── corrections ───────────────────────────────────────────────────────────────────────────────────────────────

    def waiting_correction(self) -> Flat | None:
        """Solver: what is to be added to the first ``exchanged`` weights; then ``correction_applied``, and publish."""
        return self._mailbox if int(self._words[_OFFERED]) > self._applied else None

    def correction_applied(self) -> None:
        """Solver: the waiting correction is in the live weights."""
        self._applied = int(self._words[_OFFERED])

    def install(self, weights: Flat) -> None:
        """Agent, before the solver starts: its first weights. Raises GossipCaffeError unless all are finite."""
        if not np.isfinite(weights).all():
            raise GossipCaffeError(
                "the weights to start from hold NaN or Inf", remedy="choose another checkpoint"
            )
        self.publish(weights, iteration=0, batches=0, samples=0)

    def add_correction(self, delta: Flat) -> None:
        """Agent: let the solver add ``delta``, shape (exchanged,), between two steps. Copies; never waits."""
        if self._pending is not None:
            self._pending += delta
            self.pump()
        elif self._mailbox_free():
            self._offer(delta)
        else:
            self._pending = delta.copy()

    def pump(self) -> None:
        """Agent: hand over what waits, if the mailbox is free."""
        if self._pending is not None and self._mailbox_free():
            self._offer(self._pending)
            self._pending = None

    def snapshot(self, out: Flat) -> SnapshotInfo:
        """Agent: the newest snapshot, with every correction that still waits to be added.

        ``out``: shape (size,), or (exchanged,) for that part only.
        """
        info = self._read(out)
        corrected = out[: self.exchanged]
        if int(self._words[_OFFERED]) > info.applied:
            corrected += self._mailbox
        if self._pending is not None:
            corrected += self._pending
        self.pump()
        return info

    def _mailbox_free(self) -> bool:
        return self.published.applied >= int(self._words[_OFFERED])

    def _offer(self, delta: Flat) -> None:
        np.copyto(self._mailbox, delta)
        self._words[_OFFERED] += 1

    def close(self) -> None:
        """Let go of the memory."""
        del self._words, self._reals, self._arrays, self._mailbox
        self._memory.close()


def _slot_bytes(size: int) -> int:
    return -(-4 * size // 4096) * 4096
