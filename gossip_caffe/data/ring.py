"""Batches in shared memory, from one loader to one solver; either may be killed at any moment.

Two counters in the header hold the state: ``head`` (batches written) and ``tail`` (batches consumed). The eventfds only
wake the other side; a wake-up may be lost, or come without a batch. A process that dies while it fills or reads a slot
has not moved its counter, so its successor does the same batch again.

Layout: a header page (counters, then the tops as JSON), then the slots. Each slot has some int64 (sequence, records,
rows of each top) and one float32 array for each top, all aligned to 64 bytes. A top has as many rows as the batch has
records, unless its layer's batches are smaller. A top of boxes has a row for each box, at the beginning of its array.

Counters are aligned 8-byte words, each with one writer. The consumer must see a batch before the counter that
announces it, and the producer may write a slot only after the consumer has read it. So there are fences (ordering.py).
"""

from __future__ import annotations

import json
import math
import os
import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.job.spec.spec import TopSpec
from gossip_caffe.system import ordering
from gossip_caffe.system.sharedmem import SharedMemory

_MAGIC = 0x676F_7373_6970_0001
_HEADER_BYTES = 4096
_DEFECT = "report this defect"
_JSON_AT = 128
_HEAD, _TAIL = 4, 5  # index in the header's int64 words, after magic, slots, batch records and JSON length
_LONGEST_POLL_S = 0.1  # the delay with which a batch is noticed when its writer died before the wake-up


@dataclass(slots=True)
class RingBatch:
    """A batch in its slot. ``arrays``: one view for each top, shape (rows of the top, *top.shape), float32.

    Of a top of boxes: shape (1, 1, rows, values of a box).
    """

    sequence: int
    records: int
    arrays: list[NDArray[np.float32]]


class BatchRing:
    """A mapping of the ring in one process. ``fds``: the descriptors with which another process can ``attach``."""

    def __init__(self, memory: SharedMemory, ready_fd: int, free_fd: int) -> None:
        self._memory = memory
        self._ready_fd = ready_fd
        self._free_fd = free_fd
        self._words: NDArray[np.int64] = np.frombuffer(memory.view, dtype=np.int64, count=_JSON_AT // 8)
        if int(self._words[0]) != _MAGIC:
            raise EnvironmentProblem("the descriptor is not a batch ring", remedy="start the peer again")
        self.slots, self.batch_records = int(self._words[1]), int(self._words[2])
        described = bytes(memory.view[_JSON_AT : _JSON_AT + int(self._words[3])])
        self.tops = tuple(TopSpec(name, tuple(shape), *rest) for name, shape, *rest in json.loads(described))
        self._slot_bytes, offsets = _slot_layout(self.tops, self.batch_records)
        self._meta: list[NDArray[np.int64]] = []
        self._arrays: list[list[NDArray[np.float32]]] = []
        for slot in range(self.slots):
            base = _HEADER_BYTES + slot * self._slot_bytes
            self._meta.append(
                np.frombuffer(memory.view, dtype=np.int64, count=2 + len(self.tops), offset=base)
            )
            self._arrays.append(
                [
                    np.frombuffer(
                        memory.view, np.float32, self.batch_records * math.prod(top.shape), base + offset
                    ).reshape(self.batch_records, *top.shape)
                    for top, offset in zip(self.tops, offsets, strict=True)
                ]
            )

    @classmethod
    def create(cls, tops: Sequence[TopSpec], batch_records: int, slots: int) -> BatchRing:
        """Create a ring of ``slots`` batches. Raises EnvironmentProblem when memory is short."""
        if batch_records < 1 or slots < 1:
            raise EnvironmentProblem(
                f"a ring of {slots} slots for {batch_records} records and {len(tops)} tops",
                remedy="set prefetch_batches and batch_size to 1 or more",
            )
        described = json.dumps(
            [[top.name, list(top.shape), top.batch_records, top.boxes] for top in tops]
        ).encode()
        if _JSON_AT + len(described) > _HEADER_BYTES:
            raise EnvironmentProblem("the data layer's tops have too long names", remedy="shorten them")
        memory = SharedMemory.create("batches", ring_bytes(tops, batch_records, slots))
        memory.view[_JSON_AT : _JSON_AT + len(described)] = described
        words = np.frombuffer(memory.view, dtype=np.int64, count=_JSON_AT // 8)
        words[:6] = [_MAGIC, slots, batch_records, len(described), 0, 0]
        flags = os.EFD_CLOEXEC | os.EFD_NONBLOCK
        return cls(memory, os.eventfd(0, flags), os.eventfd(0, flags))

    @classmethod
    def attach(cls, fds: Sequence[int]) -> BatchRing:
        """Map a ring that another process created, from its ``fds``."""
        memory_fd, ready_fd, free_fd = fds
        return cls(SharedMemory.attach(memory_fd), ready_fd, free_fd)

    @property
    def fds(self) -> tuple[int, int, int]:
        """The descriptors with which another process can ``attach``: memory, ready, free."""
        return self._memory.fd, self._ready_fd, self._free_fd

    @property
    def ready_fd(self) -> int:
        """A descriptor that becomes readable when a batch was written, for a consumer that also polls others."""
        return self._ready_fd

    @property
    def head(self) -> int:
        """The number of the next batch to be written."""
        return int(self._words[_HEAD])

    @property
    def tail(self) -> int:
        """The number of the next batch to be consumed."""
        return int(self._words[_TAIL])

    @property
    def ready(self) -> int:
        """The number of batches that were written and not consumed."""
        ready = self.head - self.tail
        ordering.fence()  # the caller's accesses to a slot come after these loads
        return ready

    def reserve(self, timeout_s: float) -> list[NDArray[np.float32]] | None:
        """Producer: return the next free slot's arrays, shape (batch_records, *top.shape); None: no slot in time."""
        if not _wait(self._free_fd, lambda: self.ready < self.slots, timeout_s):
            return None
        return self._arrays[self.head % self.slots]

    def commit(self, sequence: int, records: int, rows: Sequence[int] | None = None) -> None:
        """Producer: publish the reserved slot as batch ``sequence`` with ``records`` records, possibly 0.

        ``rows``: the number of valid rows of each top; None: ``records`` for each. Raises EnvironmentProblem when
        another batch is due, or no slot was free.
        """
        head = self.head
        if sequence != head or self.ready >= self.slots or not 0 <= records <= self.batch_records:
            raise EnvironmentProblem(
                f"batch {sequence} of {records} records was loaded where {head} is due", remedy=_DEFECT
            )
        self._meta[head % self.slots][:] = (sequence, records, *(rows or (records,) * len(self.tops)))
        ordering.fence()
        self._words[_HEAD] = head + 1
        os.eventfd_write(self._ready_fd, 1)

    def take(self, timeout_s: float) -> RingBatch | None:
        """Consumer: return the next batch, valid until ``release``; None: no batch in time."""
        if not _wait(self._ready_fd, lambda: self.ready > 0, timeout_s):
            return None
        slot = self.tail % self.slots
        sequence, records, *rows = (int(word) for word in self._meta[slot])
        arrays = [
            array.reshape(1, 1, -1, top.shape[-1])[:, :, :count] if top.boxes else array[:count]
            for top, array, count in zip(self.tops, self._arrays[slot], rows, strict=True)
        ]
        return RingBatch(sequence, records, arrays)

    def records_of(self, sequence: int) -> int:
        """Consumer: return the number of records of a batch that was written and not released."""
        return int(self._meta[sequence % self.slots][1])

    def drain_ready(self) -> None:
        """Consumer: clear the wake-ups of ``ready_fd``; the counters tell which batches are there."""
        _drain(self._ready_fd)

    def release(self) -> None:
        """Consumer: free the slot of the batch that was taken. Raises EnvironmentProblem when there is none."""
        if not self.ready:
            raise EnvironmentProblem(f"batch {self.tail} was released and never written", remedy=_DEFECT)
        ordering.fence()  # all loads from the slot come before the store that frees it
        self._words[_TAIL] = self.tail + 1
        os.eventfd_write(self._free_fd, 1)

    def rewind(self, sequence: int) -> None:
        """Empty the ring; the next batch is ``sequence``. Call it only while neither loader nor solver runs."""
        self._words[_HEAD] = self._words[_TAIL] = sequence
        os.eventfd_write(self._free_fd, 1)

    def close(self) -> None:
        """Close the descriptors and unmap the memory; the ring cannot be used afterwards."""
        if self._memory.fd < 0:
            return
        os.close(self._ready_fd)
        os.close(self._free_fd)
        del self._words, self._meta, self._arrays
        self._memory.close()


def ring_bytes(tops: Sequence[TopSpec], batch_records: int, slots: int) -> int:
    """The size of the shared memory of a ring, in bytes."""
    return _HEADER_BYTES + slots * _slot_layout(tops, batch_records)[0]


def _slot_layout(tops: Sequence[TopSpec], batch_records: int) -> tuple[int, list[int]]:
    at, offsets = -(-8 * (2 + len(tops)) // 64) * 64, []
    for top in tops:
        offsets.append(at)
        at += -(-4 * batch_records * math.prod(top.shape) // 64) * 64
    return at, offsets


def _wait(fd: int, ready: Callable[[], bool], timeout_s: float) -> bool:
    """Wait until ``ready`` or the timeout. It checks when ``fd`` is readable, and every _LONGEST_POLL_S."""
    if ready():
        return True
    if timeout_s <= 0:
        return False
    deadline = time.monotonic() + timeout_s
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while not ready():
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        poller.poll(1000 * min(left_s, _LONGEST_POLL_S))
        _drain(fd)
    return True


def _drain(fd: int) -> None:
    try:
        os.eventfd_read(fd)
    except BlockingIOError:
        pass  # no wake-up has come
