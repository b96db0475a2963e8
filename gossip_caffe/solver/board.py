"""Weights in memory that a solver and its agent share: snapshots go to the agent, corrections to the solver.

Neither side ever waits for the other. The solver copies its weights into the next of three snapshot slots, and then
points at that slot. A reader that was too slow finds the slot's stamps changed, and reads the newer slot. The agent
keeps corrections that the solver has not taken yet, and puts them into the single mailbox when it is free.

A correction leaves the mailbox only when a *published* snapshot holds it. So a solver that was killed, and restarts
from its newest snapshot, still finds every correction that the snapshot lacks, and adds none of them twice.

A header word is 8 bytes, aligned, and has one writer, so no word is ever read half written. The stamps, the pointer to
the newest slot and the count of offered corrections rely on order: the stores of one process must become visible to the
other in the order of the program, and loads must stay in order. So there is a fence wherever one value announces
another (ordering.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.errors import EnvironmentProblem, GossipCaffeError
from gossip_caffe.solver.board_header import HEADER_BYTES, RATE_FACTOR, VERSION, BoardHeader
from gossip_caffe.system import ordering
from gossip_caffe.system.sharedmem import SharedMemory

Flat = NDArray[np.float32]
"""All weights of a net: shape (size,), float32."""

_MAGIC = 0x676F_7373_6970_0002
_SLOTS = 3
# Indices of header words (int64) beside those of board_header.py. The solver writes _LATEST, the agent _OFFERED.
_SIZE, _EXCHANGED, _LATEST, _OFFERED = 1, 2, 8, 16
# Indices of the words that describe a slot, from word 64 on.
_SLOT_WORDS, _SLOTS_AT = 8, 64
_BEGIN, _END, _S_VERSION, _S_ITERATION, _S_BATCHES, _S_SAMPLES, _S_APPLIED = range(7)


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """The content of a snapshot: weights after ``iteration`` iterations of this peer.

    They include the peer's first ``batches`` batches with ``samples`` records, and ``applied`` corrections. ``version``
    counts snapshots from 1; 0: none yet.
    """

    version: int
    iteration: int
    batches: int
    samples: int
    applied: int


class WeightBoard(BoardHeader):
    """A mapping of the board in one process. ``size``: float32 values; ``exchanged``: of these, the exchanged ones."""

    def __init__(self, memory: SharedMemory) -> None:
        super().__init__(memory)
        self._memory = memory
        if int(self._words[0]) != _MAGIC:
            raise EnvironmentProblem("the descriptor is not a weight board", remedy="start the peer again")
        self.size = int(self._words[_SIZE])
        self.exchanged = int(self._words[_EXCHANGED])
        self._arrays: list[Flat] = [
            np.frombuffer(memory.view, np.float32, self.size, HEADER_BYTES + slot * _slot_bytes(self.size))
            for slot in range(_SLOTS + 1)
        ]
        self._mailbox = self._arrays[_SLOTS][: self.exchanged]
        self._pending: Flat | None = None
        self._applied = 0
        self._corrections = 0

    @classmethod
    def create(cls, size: int, exchanged: int | None = None) -> WeightBoard:
        """Create a board for ``size`` float32 values, of which the first ``exchanged`` (None: all) may be corrected.

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
        """Map a board that another process created; ``present``: map all its pages now, not during the first step."""
        return cls(SharedMemory.attach(fd, present))

    @property
    def memory(self) -> NDArray[np.uint8]:
        """The whole board as bytes, shape (bytes,): snapshots and corrections lie in it."""
        return np.frombuffer(self._memory.view, np.uint8)

    @property
    def fd(self) -> int:
        """The descriptor with which another process can ``attach``."""
        return self._memory.fd

    # ── snapshots ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def published(self) -> SnapshotInfo:
        """The content of the newest snapshot; its version is 0 before the first."""
        while True:
            slot, stamp = self._newest()
            info = self._described(slot)
            if self._unchanged(slot, stamp):
                return info

    def publish(self, weights: Flat, *, iteration: int, batches: int, samples: int) -> int:
        """Solver: publish ``weights``, shape (size,). Returns their version. It costs one copy and never waits."""
        target = self.next_slot()
        np.copyto(target, weights)
        return self.publish_slot(iteration=iteration, batches=batches, samples=samples)

    def next_slot(self) -> Flat:
        """Solver: return the slot for the next snapshot, shape (size,). Fill it, then call ``publish_slot``.

        This saves the copy of ``publish``.
        """
        slot = (int(self._words[_LATEST]) + 1) % _SLOTS
        self._words[_SLOTS_AT + slot * _SLOT_WORDS + _BEGIN] += 1
        ordering.fence()
        return self._arrays[slot]

    def publish_slot(self, *, iteration: int, batches: int, samples: int) -> int:
        """Solver: publish the slot of ``next_slot``, which now holds the live weights. Returns their version."""
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
        ordering.fence()  # the weights before the stamp, the stamp before the pointer, the pointer before the version
        self._words[at + _END] = self._words[at + _BEGIN]
        ordering.fence()
        self._words[_LATEST] = slot
        ordering.fence()
        self._words[VERSION] = version
        return version

    def restore(self, out: Flat) -> SnapshotInfo:
        """Solver, at its start: copy the newest snapshot to ``out``, shape (size,), and count from it.

        Corrections that the snapshot lacks are still in the mailbox.
        """
        info = self._read(out)
        self._applied = info.applied
        self._count_from(info)
        # If the killed solver was writing a slot, that slot is simply written again.
        return info

    def rewind(self) -> None:
        """Agent, when its solver has ended: set the counters back to the newest snapshot.

        The next solver does the same when it starts. Until then, the batches that the dead solver trained after its
        last snapshot would still count as trained, although they are lost.
        """
        self._count_from(self.published)

    def _count_from(self, info: SnapshotInfo) -> None:
        self._set_counters(info.iteration, info.batches, info.samples)

    def _latest_at(self) -> int:
        return _SLOTS_AT + int(self._words[_LATEST]) * _SLOT_WORDS

    def _newest(self) -> tuple[int, int]:
        """Return the newest slot and its stamp. Call ``_unchanged`` after the read: the slot may be rewritten."""
        slot = int(self._words[_LATEST])
        ordering.fence()
        stamp = int(self._words[_SLOTS_AT + slot * _SLOT_WORDS + _END])
        ordering.fence()
        return slot, stamp

    def _unchanged(self, slot: int, stamp: int) -> bool:
        ordering.fence()
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
        """Solver: return the correction to add to the first ``exchanged`` weights, shape (exchanged,); None: none.

        After the addition call ``correction_applied``, and publish.
        """
        if int(self._words[_OFFERED]) <= self._applied:
            return None
        ordering.fence()
        return self._mailbox

    def correction_applied(self) -> None:
        """Solver: note that the waiting correction was added to the live weights."""
        self._applied = int(self._words[_OFFERED])

    def install(self, weights: Flat) -> None:
        """Agent, before the solver starts: publish its first weights, shape (size,).

        Raises GossipCaffeError unless all are finite.
        """
        if not np.isfinite(weights).all():
            raise GossipCaffeError(
                "the weights to start from contain NaN or Inf", remedy="choose another checkpoint"
            )
        self.publish(weights, iteration=0, batches=0, samples=0)

    def replace(self, weights: Flat, *, iteration: int, batches: int, samples: int) -> None:
        """Agent, while no solver runs: publish the weights from which the next solver continues, shape (size,).

        Waiting corrections are dropped: they were made for the replaced weights. Raises GossipCaffeError unless all
        weights are finite.
        """
        if not np.isfinite(weights).all():
            raise GossipCaffeError(
                "the weights to continue from contain NaN or Inf", remedy="start the peer again"
            )
        self._pending = None
        self._applied = int(self._words[_OFFERED])
        self.publish(weights, iteration=iteration, batches=batches, samples=samples)
        self.forget_trouble()
        self.rewind()

    def add_correction(self, delta: Flat) -> None:
        """Agent: let the solver add ``delta``, shape (exchanged,), between two steps. It is copied; never waits."""
        self._corrections += 1
        if self._pending is not None:
            self._pending += delta
            self.pump()
        elif self._mailbox_free():
            self._offer(delta)
        else:
            self._pending = delta.copy()

    def pump(self) -> None:
        """Agent: put the waiting correction into the mailbox, if the mailbox is free."""
        if self._pending is not None and self._mailbox_free():
            self._offer(self._pending)
            self._pending = None

    def snapshot(self, out: Flat) -> SnapshotInfo:
        """Agent: copy the newest snapshot to ``out``, with every correction that still waits added to it.

        ``out``: shape (size,), or (exchanged,) for that part only. Returns the snapshot's content.
        """
        info = self._read(out)
        corrected = out[: self.exchanged]
        if int(self._words[_OFFERED]) > info.applied:
            corrected += self._mailbox
        if self._pending is not None:
            corrected += self._pending
        self.pump()
        return info

    @property
    def revision(self) -> tuple[int, int]:
        """Agent: a number for the result of ``snapshot``: it changes with each publication and each correction."""
        return self.published.version, self._corrections

    def _mailbox_free(self) -> bool:
        return self.published.applied >= int(self._words[_OFFERED])

    def _offer(self, delta: Flat) -> None:
        ordering.fence()  # the load that found the mailbox free comes before the stores into it
        np.copyto(self._mailbox, delta)
        ordering.fence()
        self._words[_OFFERED] += 1

    def close(self) -> None:
        """Unmap the memory and close its descriptor."""
        del self._words, self._reals, self._arrays, self._mailbox
        self._memory.close()


def _slot_bytes(size: int) -> int:
    return -(-4 * size // 4096) * 4096
