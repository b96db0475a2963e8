"""Vectors of the model's size that are used again: the system would clear fresh ones page by page at every exchange."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Flat = NDArray[np.float32]

KEPT = 2
"""The number of free vectors that are kept."""


class Buffers:
    """A pool of vectors of one size.

    A cancelled exchange, whose thread may still write into its vectors, does not give them back: they are dropped.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._free: list[Flat] = []

    def take(self) -> Flat:
        """A vector of arbitrary values; shape (size,), float32."""
        return self._free.pop() if self._free else np.empty(self.size, dtype=np.float32)

    def give(self, *vectors: Flat) -> None:
        """Return vectors that are no longer used."""
        self._free.extend(vectors)
        del self._free[KEPT:]
