"""What a solver remembers beside its weights (momentum), handed over in memory that no name outlives."""

from __future__ import annotations

import math
import mmap
import os
import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.sharedmem import SharedMemory

BIG_BYTES = 1 << 20
"""What is smaller than this is mapped and unmapped at once."""


class SolverHistory:
    """The blobs of a solver's history, as it stood after ``iteration`` iterations of this solver.

    ``close`` gives the memory back.
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
        """Let go of the memory."""
        self.blobs.clear()
        if self._memory is not None:
            self._memory.close()
        elif self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class HistoryRoom:
    """Memory for a solver's history, made ready in a thread beside its steps: between two of them it is only filled.

    ``fd`` is closed in the end; ``size_bytes``: how much is expected. A wrong guess costs time, nothing else.
    """

    def __init__(self, fd: int, size_bytes: int) -> None:
        self._fd = fd
        self._memory = self._mapped(size_bytes)
        self._making = self._beside(self._make_pages)

    @property
    def ready(self) -> bool:
        """Whether to fill it takes no longer than a copy."""
        return self._making is None or not self._making.is_alive()

    def fill(self, blobs: Sequence[NDArray[np.float32]]) -> list[tuple[int, ...]]:
        """Copy the blobs there, one after the other, and let go of it; returns their shapes."""
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
        """Do it in a thread, where it takes long enough to be worth one."""
        if self._memory.size_bytes < BIG_BYTES:
            do()
            return None
        thread = threading.Thread(target=do, name="room for history", daemon=True)
        thread.start()
        return thread

    def _mapped(self, size_bytes: int) -> SharedMemory:
        os.ftruncate(self._fd, max(1, size_bytes))  # nothing cannot be mapped
        return SharedMemory.attach(os.dup(self._fd))

    def _make_pages(self) -> None:
        np.frombuffer(self._memory.view, np.uint8)[:: mmap.PAGESIZE] = 0


def write_history(blobs: Sequence[NDArray[np.float32]], fd: int) -> list[tuple[int, ...]]:
    """Copy momentum, blob after blob, into the descriptor's memory, and close it; returns the blobs' shapes."""
    return HistoryRoom(fd, sum(values.nbytes for values in blobs)).fill(blobs)
