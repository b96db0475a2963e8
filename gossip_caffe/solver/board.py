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
from gossip_caffe.solver.counters import HEADER_BYTES, RATE_FACTOR, VERSION, Counters

Flat = NDArray[np.float32]
"""All weights of a net: shape (size,), float32."""

_MAGIC = 0x676F_7373_6970_0002
_SLOTS = 3
# Words of the header (int64) beside those of counters.py; the agent writes the last of them, the solver the third.
_SIZE, _EXCHANGED, _LATEST, _OFFERED = 1, 2, 8, 16
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


class WeightBoard(Counters):
    """One board, as one process sees it."""

    def __init__(self, memory: SharedMemory) -> None:
        super().__init__(memory)
        self._memory = memory
        if int(self._words[0]) != _MAGIC:
            raise EnvironmentProblem("the descriptor is no weight board", remedy="start the peer again")
        self.size = int(self._words[_SIZE])
        self.exchanged = int(self._words[_EXCHANGED])
        self._arrays: list[Flat] = [
            np.frombuffer(memory.view, np.float32, self.size, HEADER_BYTES + slot * _slot_bytes(self.size))
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
        memory = SharedMemory.create("weights", HEADER_BYTES + (_SLOTS + 1) * _slot_bytes(size))
        words = np.frombuffer(memory.view, np.int64, HEADER_BYTES // 8)
        words[0], words[_SIZE] = _MAGIC, size
        words[_EXCHANGED] = size if exchanged is None else exchanged
        np.frombuffer(memory.view, np.float64, HEADER_BYTES // 8)[RATE_FACTOR] = 1.0
        return cls(memory)

    @classmethod
    def attach(cls, fd: int, present: bool = False) -> WeightBoard:
        """Map a board that another process made; ``present``: with all its pages, before the first step needs them."""
        return cls(SharedMemory.attach(fd, present))

    @property
    def memory(self) -> NDArray[np.uint8]:
        """All of it, as bytes: snapshots and corrections lie in it."""
        return np.frombuffer(self._memory.view, np.uint8)

    @property
    def fd(self) -> int:
        """The descriptor to hand over."""
        return self._memory.fd

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
        self._words[VERSION] = version
        return version

    def restore(self, out: Flat) -> SnapshotInfo:
        """Solver, at its start: the newest snapshot; corrections that it lacks are still in the mailbox."""
        info = self._read(out)
        self._applied = info.applied
        self._count_from(info)
        # A slot that a killed solver had begun to write is simply begun anew.
        return info

    def rewind(self) -> None:
        """Agent, when its solver has ended: nothing is counted that the newest snapshot does not hold.

        The next solver says the same as soon as it stands; until then, what the dead one had trained after its last
        snapshot would seem to be trained again already.
        """
        self._count_from(self.published)

    def _count_from(self, info: SnapshotInfo) -> None:
        self.note_step(info.iteration, info.batches, info.samples, self.loss, self.learning_rate, self.step_s)

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
