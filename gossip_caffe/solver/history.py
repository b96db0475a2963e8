"""What a solver remembers beside its weights (momentum), handed over in memory that no name outlives."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.sharedmem import SharedMemory


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


def write_history(blobs: Sequence[NDArray[np.float32]], fd: int) -> list[tuple[int, ...]]:
    """Copy momentum, blob after blob, into the descriptor's memory, and close it; returns the blobs' shapes."""
    with open(fd, "wb", buffering=0) as file:
        for values in blobs:
            left = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
            while left:  # the kernel takes no more than 2 GiB at once
                left = left[file.write(left) :]
    return [tuple(values.shape) for values in blobs]
