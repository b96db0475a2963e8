"""A sparkline: the course of a figure in one line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-~=*%#"
"""For a terminal whose encoding has no blocks."""
HUGE = 1e300
"""Beyond it sums and differences of values may be infinite. Only the relations of values are drawn."""


def sparkline(values: Sequence[float], width: int, *, unicode: bool = True) -> str:
    """Draw the values, the oldest first, in at most ``width`` characters; the lowest is the lowest block.

    More values than characters: each character is the mean of as many values as the others, the newest ones whole.
    Values that are not finite are left out.
    """
    levels = BLOCKS if unicode else ASCII
    finite = [value for value in values if math.isfinite(value)]
    if not finite or width < 1:
        return ""
    if (largest := max(map(abs, finite))) > HUGE:
        finite = [value / largest for value in finite]
    size = -(-len(finite) // width)
    first = len(finite) % size
    cuts = ([finite[:first]] if first else []) + [
        finite[at : at + size] for at in range(first, len(finite), size)
    ]
    means = [sum(cut) / len(cut) for cut in cuts]
    low, high = min(means), max(means)
    if high <= low:
        return levels[0] * len(means)
    top = len(levels) - 1
    return "".join(levels[round((mean - low) / (high - low) * top)] for mean in means)
