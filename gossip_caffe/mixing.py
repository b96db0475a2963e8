"""Pseudo-random numbers that are a function of their input: the same on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TWO_TO_53 = 2.0**53


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser, applied twice (Steele et al. 2014): shape and dtype as ``values``.

    Inputs that differ in one bit give independent outputs.
    """
    result = values.copy()
    shifted = np.empty_like(result)
    for _ in range(2):
        result += np.uint64(0x9E3779B97F4A7C15)
        result ^= np.right_shift(result, np.uint64(30), out=shifted)
        result *= np.uint64(0xBF58476D1CE4E5B9)
        result ^= np.right_shift(result, np.uint64(27), out=shifted)
        result *= np.uint64(0x94D049BB133111EB)
        result ^= np.right_shift(result, np.uint64(31), out=shifted)
    return result


def uniform(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Mixed bits as numbers in the open interval (0, 1)."""
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / _TWO_TO_53
