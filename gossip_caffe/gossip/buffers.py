"""Vectors of the model's size, used again: fresh ones would be cleared page by page at every exchange."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Flat = NDArray[np.float32]

KEPT = 2


class Buffers:
    """Vectors of one size. Not given back (an exchange that was cancelled while a thread still writes): forgotten."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free: list[Flat] = []

    def take(self) -> Flat:
        """A vector whose values mean nothing; shape (size,), float32."""
        return self._free.pop() if self._free else np.empty(self.size, dtype=np.float32)

    def give(self, *vectors: Flat) -> None:
        """Nobody uses these any more."""
        self._free.extend(vectors)
        del self._free[KEPT:]
