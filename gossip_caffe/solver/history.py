"""A solver's history (momentum), passed from the solver to the agent in anonymous shared memory."""

from __future__ import annotations

import math
import mmap
import os
import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.system.sharedmem import SharedMemory

BIG_BYTES = 1 << 20
"""A smaller history is mapped and unmapped without a thread."""


class SolverHistory:
    """The blobs of a solver's history after ``iteration`` iterations of this solver: float32, one array a blob.

    ``close`` frees the memory.
    """

    _memory: SharedMemory | None

    def __init__(self, fd: int, shapes: Sequence[Sequence[int]], iteration: int) -> None:
        self.iteration = iteration
        self.blobs: list[NDArray[np.float32]] = []
        self._fd, self._memory = fd, None
        if not os.fstat(fd).st_size:
            return
        self._fd, self._memory = -1, SharedMemory.attach(fd)
        at = 0
        for shape in shapes:
            values = np.frombuffer(self._memory.view, np.float32, math.prod(shape), at)
            self.blobs.append(values.reshape(tuple(shape)))
            at += values.nbytes

    def close(self) -> None:
        """Free the memory; ``blobs`` is empty afterwards."""
        self.blobs.clear()
        if self._memory is not None:
            self._memory.close()
        elif self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class HistoryRoom:
    """Memory for a solver's history. A thread prepares its pages during steps, so that ``fill`` is only a copy.

    ``fd``: the memory's descriptor, which ``fill`` closes. ``size_bytes``: the expected size. A wrong size only costs
    time.
    """

    def __init__(self, fd: int, size_bytes: int) -> None:
        self._fd = fd
        self._memory = self._mapped(size_bytes)
        self._making = self._beside(self._make_pages)

    @property
    def ready(self) -> bool:
        """True if the pages are prepared, so that ``fill`` takes no longer than a copy."""
        return self._making is None or not self._making.is_alive()

    def fill(self, blobs: Sequence[NDArray[np.float32]]) -> list[tuple[int, ...]]:
        """Copy the blobs into the memory, one after the other, and close it. Returns their shapes."""
        if self._making is not None:
            self._making.join()
        size_bytes = sum(values.nbytes for values in blobs)
        if size_bytes != self._memory.size_bytes:
            self._memory.close()
            self._memory = self._mapped(size_bytes)
        room = np.frombuffer(self._memory.view, np.float32, size_bytes // 4)
        at = 0
        for values in blobs:
            np.copyto(room[at : at + values.size], values.reshape(-1))
            at += values.size
        del room
        os.ftruncate(self._fd, size_bytes)
        os.close(self._fd)
        self._beside(self._memory.close)
        return [tuple(values.shape) for values in blobs]

    def _beside(self, do: Callable[[], None]) -> threading.Thread | None:
        """Call ``do`` in a thread if the memory is big, else at once. Returns the thread, if there is one."""
        if self._memory.size_bytes < BIG_BYTES:
            do()
            return None
        from gossip_caffe.background import thread  # noqa: PLC0415 - it imports asyncio: most solvers need none

        return thread(do, "room for history")

    def _mapped(self, size_bytes: int) -> SharedMemory:
        os.ftruncate(self._fd, max(1, size_bytes))  # a mapping of 0 bytes is an error
        return SharedMemory.attach(os.dup(self._fd))

    def _make_pages(self) -> None:
        np.frombuffer(self._memory.view, np.uint8)[:: mmap.PAGESIZE] = 0


def write_history(blobs: Sequence[NDArray[np.float32]], fd: int) -> list[tuple[int, ...]]:
    """Copy the blobs, one after the other, into the memory of ``fd``, and close it. Returns the blobs' shapes."""
    return HistoryRoom(fd, sum(values.nbytes for values in blobs)).fill(blobs)
