"""The compiled arithmetic (arithmetic.c) if it was built and the processor has its instructions; else NumPy's.

The results of both are equal to the bit, except that the figures of a half are summed in another order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

try:
    from gossip_caffe.gossip.averaging import arithmetic
except ImportError:  # no compiler when the package was installed, or an older processor
    arithmetic = None  # type: ignore[assignment]

Flat = NDArray[np.float32]
Half = NDArray[np.float16]

BLOCK = 1 << 16
"""The number of values that NumPy works on at one time, so that no temporary of the model's size is needed."""

IS_COMPILED = arithmetic is not None


def halve(mine: Flat, other: Flat | Half, out: Flat, rounds_mine: bool = False) -> tuple[float, float, float]:
    """Write ½(other − mine) to ``out``; returns ‖half‖², ‖mine‖² and the half's sum, accumulated in float64.

    All have the same shape (values,); ``out`` may be one of the other two. ``rounds_mine``: ``mine`` is rounded to
    float16 first, also for its length. The first figure is finite only if all values are. With the sides swapped,
    ``out`` is the exact opposite. The values are halved before they are subtracted: the difference of two finite
    float32 values can overflow, and that of their halves cannot.
    """
    if arithmetic is not None:
        return arithmetic.halve(mine, other, out, other.dtype == np.float16, rounds_mine)
    squares = own = total = 0.0
    for start in range(0, mine.size, BLOCK):
        part = slice(start, start + BLOCK)
        ours = mine[part].astype(np.float16) if rounds_mine else mine[part]
        own += sum_of_squares(ours)
        np.subtract(other[part] * np.float32(0.5), ours * np.float32(0.5), out=out[part])
        wide = out[part].astype(np.float64)
        total += float(wide.sum())
        squares += float(np.einsum("i,i->", wide, wide))
    return squares, own, total


def sum_of_squares(values: Flat | Half) -> float:
    """‖values‖² in float64."""
    squares = 0.0
    for start in range(0, values.size, BLOCK):
        wide = values[start : start + BLOCK].astype(np.float64)
        squares += float(np.einsum("i,i->", wide, wide))
    return squares


def narrow(values: Flat, out: Half) -> None:
    """Write ``values`` to ``out`` as float16, rounded to nearest. The values must be within its range."""
    if arithmetic is not None:
        arithmetic.narrow(values, out)
    else:
        np.copyto(out, values, casting="same_kind")


def widen(halves: Half, out: Flat) -> None:
    """Write float16 ``halves`` to ``out`` as float32, exactly."""
    if arithmetic is not None:
        arithmetic.widen(halves, out)
    else:
        np.copyto(out, halves)


def mean(parts: Sequence[Flat], out: Flat) -> tuple[float, list[tuple[float, float]]]:
    """Write the mean of some vectors to ``out``, summed in their order in float32.

    Returns the squared length of the mean; and for each part its squared distance from the mean, and its ``magnitude``.
    All have the same shape (values,), and ``out`` is none of them. Raises ValueError if there are no parts.
    """
    if not parts:
        raise ValueError("no vectors have no mean")
    if arithmetic is not None:
        return arithmetic.mean(tuple(parts), out)
    apart, most = [0.0] * len(parts), [0.0] * len(parts)
    square, count = 0.0, np.float32(len(parts))
    for start in range(0, out.size, BLOCK):
        block = slice(start, start + BLOCK)
        made = out[block]
        np.copyto(made, parts[0][block])
        with np.errstate(over="ignore", invalid="ignore"):
            for part in parts[1:]:
                made += part[block]
            made /= count
            square += sum_of_squares(made)
            for index, part in enumerate(parts):
                wide = part[block].astype(np.float64) - made
                apart[index] += float(np.einsum("i,i->", wide, wide))
                found = magnitude(part[block])
                if not found <= most[index] and most[index] == most[index]:
                    most[index] = found
    return square, list(zip(apart, most, strict=True))


def magnitude(values: Flat) -> float:
    """The largest magnitude; NaN or Inf if one is among the values, and 0.0 if there are no values."""
    if arithmetic is not None:
        return arithmetic.magnitude(values)
    most = 0.0
    for start in range(0, values.size, BLOCK):
        bits = values[start : start + BLOCK].view(np.uint32) & np.uint32(0x7FFF_FFFF)
        found = float(bits.max().view(np.float32))
        if not found <= most:  # true also if ``found`` is NaN
            most = found
        if not np.isfinite(most):
            break
    return most
