"""Made-up pictures of several kinds, for examples whose data set is not at hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KINDS = 10
_GRID = 4
"""The side of a square of one brightness, in pixels."""
_SHIFT = 3
_NOISE = 200.0


def pictures(
    records: int, shape: tuple[int, int, int], seed: int, kinds: int = KINDS
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pictures as uint8 of shape (records, channels, height, width), and their kinds as int64.

    Each kind has a pattern of squares, which is alike for every ``seed``. A picture shows it moved by up to three
    pixels, behind it a paler one of any kind, and noise. No net names all of them rightly.
    """
    channels, height, width = shape
    cells = (kinds, channels, -(-height // _GRID), -(-width // _GRID))
    squares = np.random.default_rng(cells).uniform(-100, 100, cells)
    patterns = squares.repeat(_GRID, axis=2).repeat(_GRID, axis=3)[:, :, :height, :width]
    random = np.random.default_rng(seed)
    labels = random.integers(0, kinds, records)
    found = np.empty((records, channels, height, width), np.uint8)
    for index, label in enumerate(labels):
        before, behind = (
            np.roll(patterns[kind], random.integers(-_SHIFT, _SHIFT + 1, 2), axis=(1, 2))
            for kind in (label, random.integers(kinds))
        )
        mixed = before + random.uniform(0.0, 1.0) * behind + random.normal(0, _NOISE, before.shape)
        found[index] = np.clip(128 + random.uniform(0.3, 0.8) * mixed, 0, 255)
    return found, labels
