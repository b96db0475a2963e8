"""The compiled arithmetic, where it was built and the processor suits (arithmetic.c); else the same by NumPy.

Either way the results are the same to the bit, but for the order in which the figures of a half are added up.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

try:
    from gossip_caffe.gossip import arithmetic
except ImportError:  # no compiler when the package was installed, or an older processor
    arithmetic = None  # type: ignore[assignment]

Flat = NDArray[np.float32]
Half = NDArray[np.float16]

BLOCK = 1 << 16
"""Values that NumPy works on at one time, so that no temporary of the model's size arises."""

IS_COMPILED = arithmetic is not None


def halve(
    mine: Flat, theirs: Flat | Half, out: Flat, rounds_mine: bool = False
) -> tuple[float, float, float]:
    """½(theirs − mine) into ``out``, which may be one of the two; ‖half‖², ‖theirs‖² and the half's sum.

    ``rounds_mine``: ``mine`` is rounded to float16 first. The first figure is finite only when all values are. With
    the sides swapped ``out`` is the exact opposite. Halved before subtracting: the difference of two finite float32
    values can overflow, that of their halves cannot.
    """
    if arithmetic is not None:
        return arithmetic.halve(mine, theirs, out, theirs.dtype == np.float16, rounds_mine)
    squares = norm = total = 0.0
    for start in range(0, mine.size, BLOCK):
        part = slice(start, start + BLOCK)
        mine_half = (mine[part].astype(np.float16) if rounds_mine else mine[part]) * np.float32(0.5)
        others = theirs[part].astype(np.float64)
        norm += float(np.einsum("i,i->", others, others))
        np.subtract(theirs[part] * np.float32(0.5), mine_half, out=out[part])
        others[:] = out[part]
        total += float(others.sum())
        squares += float(np.einsum("i,i->", others, others))
    return squares, norm, total


def narrow(values: Flat, out: Half) -> None:
    """Float16, rounded to nearest; values must be within its range."""
    if arithmetic is not None:
        arithmetic.narrow(values, out)
    else:
        np.copyto(out, values, casting="same_kind")


def widen(halves: Half, out: Flat) -> None:
    """Float16 back as float32, exactly."""
    if arithmetic is not None:
        arithmetic.widen(halves, out)
    else:
        np.copyto(out, halves)


def magnitude(values: Flat) -> float:
    """The largest magnitude, 0.0 of nothing; NaN or Inf when there is one."""
    if arithmetic is not None:
        return arithmetic.magnitude(values)
    most = 0.0
    for start in range(0, values.size, BLOCK):
        bits = values[start : start + BLOCK].view(np.uint32) & np.uint32(0x7FFF_FFFF)
        found = float(bits.max().view(np.float32))
        if not found <= most:  # also when it is NaN
            most = found
        if not np.isfinite(most):
            break
    return most
