"""The arithmetic of an exchange, in one pass or in blocks, so that no temporary of the model's size is needed.

Both sides compute their halves from the same two quantised vectors. So the halves are exact opposites, and the sum of
all weights is kept (pairwise averaging, Boyd et al. 2006). BLAS is not used: it would wake one thread per core for
every block, and solvers need the cores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.gossip.averaging import compiled

Flat = NDArray[np.float32]

BLOCK = compiled.BLOCK


def blocks(size: int) -> Iterator[slice]:
    """Slices of at most BLOCK values that cover ``size`` values, in order."""
    for start in range(0, size, BLOCK):
        yield slice(start, min(start + BLOCK, size))


@dataclass(frozen=True, slots=True)
class HalfStats:
    """The figures of a half: the ``distance`` of the two sides, and the half's sum ``total`` and length ``norm``.

    ``noise`` is the part of ``norm``² that the codec's rounding has brought, as far as the own rounding tells. The
    distance is without it.

    ``own_norm`` is the length of the own weights (inf if not measured), ``their_norm`` that of the partner's (0 if not
    measured). ``by`` is the carrier of the partner's weights, if a log is to name it.
    """

    distance: float
    total: float
    norm: float
    own_norm: float = math.inf
    their_norm: float = 0.0
    by: str = ""
    noise: float = 0.0

    @property
    def estimate(self) -> float:
        """The distance, below zero where the rounding of both sides was less than the own one lets expect.

        A mean of many estimates is right; a mean of distances is too large when they are as short as the noise.
        """
        if not self.noise or not 0 < self.own_norm < math.inf:
            return self.distance
        return (self.norm**2 - self.noise) / self.own_norm**2

    @property
    def signal_norm(self) -> float:
        """The length of the half without the noise of rounding."""
        return math.sqrt(max(0.0, self.norm**2 - self.noise)) if self.noise else self.norm


class HalfStatsBuilder:
    """The figures of a half that is computed piece by piece."""

    def __init__(self) -> None:
        self._squares = self._own = self._total = self._other = self._noise = 0.0

    def add(self, squares: float, own: float, total: float) -> None:
        """Add ‖half‖², ‖own‖² and the half's sum of one more piece."""
        self._squares += squares
        self._own += own
        self._total += total

    def add_other(self, squares: float) -> None:
        """Add the partner's ‖weights‖² of one more piece."""
        self._other += squares

    def add_noise(self, squares: float) -> None:
        """Add ‖Q(own) − own‖² of the own rounding.

        The partner's rounding is as strong where the two are near each other, and only there the noise matters. It is
        not taken from what the partner sends: a partner could hide a long half in it. Both together are halved.
        """
        self._noise += squares / 2

    @property
    def is_finite(self) -> bool:
        """Whether every value of both sides is finite: a NaN or an Inf on either side is also in their difference."""
        return math.isfinite(self._squares)

    def result(self) -> HalfStats:
        """The figures of the whole."""
        return HalfStats(
            _relative(max(0.0, self._squares - self._noise), self._own),
            self._total,
            math.sqrt(self._squares),
            math.sqrt(self._own),
            math.sqrt(self._other),
            noise=self._noise,
        )


def _relative(squares: float, own: float) -> float:
    """‖half‖² / ‖own‖². If the own weights are all zero: 0 if the half is zero, too, else 1."""
    if own:
        return squares / own
    return 1.0 if squares else 0.0


def halve(
    mine: Flat, other: Flat, out: Flat, weighs_other: bool = False, own_noise: float = 0.0
) -> HalfStats:
    """Write ½(other − mine) to ``out``, and return its figures, accumulated in float64.

    All three have the same shape (values,); ``out`` may be one of the other two. With ``mine`` and ``other`` swapped,
    the result is the exact opposite. ``weighs_other``: also compute the length of ``other``, in another pass.
    ``own_noise``: ‖Q(own) − own‖², where ``mine`` is Q(own).
    """
    tally = HalfStatsBuilder()
    tally.add_noise(own_noise)
    if weighs_other:
        tally.add_other(compiled.sum_of_squares(other))
    tally.add(*compiled.halve(mine, other, out))
    return tally.result()


def distance(mine: Flat, other: Flat) -> float:
    """‖other − mine‖² / 4‖mine‖²: an estimate of the consensus distance (Kong et al. 2021) from one exchange.

    The own length is the measure, because the partner can choose its own: a partner that is all zero is not near.
    """
    apart = norm = 0.0
    for part in blocks(mine.size):
        ours, others = mine[part].astype(np.float64), other[part].astype(np.float64)
        norm += float(np.einsum("i,i->", ours, ours))
        others -= ours
        apart += float(np.einsum("i,i->", others, others))
    return _relative(apart / 4, norm)


def all_finite(values: Flat) -> bool:
    """Whether no value is NaN or Inf."""
    return math.isfinite(compiled.magnitude(values))


class Mean:
    """The mean of several vectors, accumulated in float64."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._sum = np.zeros(size, dtype=np.float64)
        self.count = 0

    def add(self, values: Flat) -> None:
        """Add one more vector, shape (size,)."""
        for part in blocks(self.size):
            self._sum[part] += values[part]
        self.count += 1

    def result(self, out: Flat | None = None) -> Flat:
        """The mean, shape (size,), float32, in ``out`` if given. Raises ZeroDivisionError if no vector was added."""
        mean = np.empty(self.size, dtype=np.float32) if out is None else out
        for part in blocks(self.size):
            mean[part] = self._sum[part] / self.count
        return mean
