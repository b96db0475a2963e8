"""The arithmetic of an exchange, in blocks, so that no temporary of the model's size arises.

Both sides compute their halves from the same two quantised vectors, so the halves are exact opposites: what one peer
gains the other loses, and the sum of all weights is kept (pairwise averaging, Boyd et al. 2006). No BLAS: it would wake
a thread per core for every block, beside solvers that need the cores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Flat = NDArray[np.float32]

BLOCK = 1 << 16


def blocks(size: int) -> Iterator[slice]:
    """Slices that cover ``size`` values."""
    for start in range(0, size, BLOCK):
        yield slice(start, min(start + BLOCK, size))


def half(mine: Flat, theirs: Flat, out: Flat) -> None:
    """½(theirs − mine) into ``out``, which may be one of the two. With the sides swapped the exact opposite.

    Halved before subtracting: the difference of two finite float32 values can overflow, that of their halves cannot.
    """
    for part in blocks(mine.size):
        mine_half = mine[part] * np.float32(0.5)
        np.subtract(theirs[part] * np.float32(0.5), mine_half, out=out[part])


@dataclass(frozen=True, slots=True)
class Halved:
    """What was found on the way to a half: ``distance`` of the two sides; sum and length of the half."""

    distance: float
    total: float
    norm: float


def halve(mine: Flat, theirs: Flat, out: Flat) -> Halved:
    """``half``, with its figures, accumulated in float64, in one pass."""
    total = squares = norm = 0.0
    for part in blocks(mine.size):
        others = theirs[part].astype(np.float64)
        norm += float(np.einsum("i,i->", others, others))
        mine_half = mine[part] * np.float32(0.5)
        np.subtract(theirs[part] * np.float32(0.5), mine_half, out=out[part])
        others[:] = out[part]
        total += float(others.sum())
        squares += float(np.einsum("i,i->", others, others))
    return Halved(squares / norm if norm else 0.0, total, math.sqrt(squares))


def distance(mine: Flat, theirs: Flat) -> float:
    """‖theirs − mine‖² / 4‖theirs‖²: estimates the consensus distance (Kong et al. 2021) from one exchange."""
    apart = norm = 0.0
    for part in blocks(mine.size):
        ours, others = mine[part].astype(np.float64), theirs[part].astype(np.float64)
        norm += float(np.einsum("i,i->", others, others))
        others -= ours
        apart += float(np.einsum("i,i->", others, others))
    return apart / (4 * norm) if norm else 0.0


def all_finite(values: Flat) -> bool:
    """True when no value is NaN or Inf."""
    return all(bool(np.isfinite(values[part]).all()) for part in blocks(values.size))


class Mean:
    """The mean of several vectors, accumulated in float64."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._sum = np.zeros(size, dtype=np.float64)
        self.count = 0

    def add(self, values: Flat) -> None:
        """Take one more vector in."""
        for part in blocks(self.size):
            self._sum[part] += values[part]
        self.count += 1

    def result(self) -> Flat:
        """The mean, as float32. Raises ZeroDivisionError of nothing."""
        mean = np.empty(self.size, dtype=np.float32)
        for part in blocks(self.size):
            mean[part] = self._sum[part] / self.count
        return mean
