"""The arithmetic of an exchange, in one pass or in blocks, so that no temporary of the model's size arises.

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

from gossip_caffe.gossip import compiled

Flat = NDArray[np.float32]

BLOCK = compiled.BLOCK


def blocks(size: int) -> Iterator[slice]:
    """Slices that cover ``size`` values."""
    for start in range(0, size, BLOCK):
        yield slice(start, min(start + BLOCK, size))


@dataclass(frozen=True, slots=True)
class Halved:
    """What was found on the way to a half: ``distance`` of the two sides; sum and length of the half."""

    distance: float
    total: float
    norm: float


class Tally:
    """The figures of a half that is computed piece by piece."""

    def __init__(self) -> None:
        self._squares = self._norm = self._total = 0.0

    def add(self, squares: float, norm: float, total: float) -> None:
        """Take the figures of one more piece in."""
        self._squares += squares
        self._norm += norm
        self._total += total

    @property
    def is_finite(self) -> bool:
        """Whether every value of both sides is: a NaN or an Inf in either of them is in their difference."""
        return math.isfinite(self._squares)

    def result(self) -> Halved:
        """The figures of the whole."""
        distance = self._squares / self._norm if self._norm else 0.0
        return Halved(distance, self._total, math.sqrt(self._squares))


def halve(mine: Flat, theirs: Flat, out: Flat) -> Halved:
    """½(theirs − mine) into ``out``, which may be one of the two, and its figures, accumulated in float64.

    With the sides swapped the exact opposite.
    """
    tally = Tally()
    tally.add(*compiled.halve(mine, theirs, out))
    return tally.result()


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
    return math.isfinite(compiled.magnitude(values))


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

    def result(self, out: Flat | None = None) -> Flat:
        """The mean, as float32, in ``out`` if given. Raises ZeroDivisionError of nothing."""
        mean = np.empty(self.size, dtype=np.float32) if out is None else out
        for part in blocks(self.size):
            mean[part] = self._sum[part] / self.count
        return mean
