"""The contributors to a consensus whose weights are too far from the others' (bounded-half, for a consensus).

No process holds all contributors' weights at once, so a sample of them is compared: the same blocks of each piece of
every contributor, as the piece comes. The largest magnitude of all values is compared, too, because one value suffices
to ruin a mean. The middle is the median of each sampled value, which no minority can move. The decision is pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.gossip.averaging.bound import FARTHEST
from gossip_caffe.gossip.averaging.compiled import sum_of_squares

Flat = NDArray[np.float32]

BLOCK = 64
MOST_SAMPLED = 1 << 16
"""The number of values of one contributor that are sampled."""
FEWEST_OF_A_PIECE = 1 << 8
"""The least number of values that are sampled of each piece."""


@dataclass(slots=True)
class Sample:
    """The sampled values of one contributor. ``most``: the largest magnitude of all its values."""

    parts: list[Flat] = field(default_factory=list)
    most: float = 0.0

    def take(self, piece: Flat, magnitude: float, values: int) -> None:
        """Sample a piece. ``magnitude``: its largest magnitude; ``values``: the number of values in all pieces."""
        self.most = max(self.most, magnitude)
        self.parts.append(_sampled(piece, values).copy())

    @property
    def values(self) -> Flat:
        """All sampled values, in order."""
        return np.concatenate(self.parts)


def _sampled(piece: Flat, values: int) -> Flat:
    """Evenly spread blocks of a piece; all of it if it is short."""
    wanted = max(FEWEST_OF_A_PIECE, MOST_SAMPLED * piece.size // max(1, values))
    if piece.size <= wanted or piece.size < 2 * BLOCK:
        return piece
    blocks = piece[: piece.size // BLOCK * BLOCK].reshape(-1, BLOCK)
    return blocks[:: -(-piece.size // wanted)].reshape(-1)


def outliers(samples: Mapping[str, Sample], limit: float, own: str = "") -> dict[str, float]:
    """The contributors that are further from the middle than ``limit``, each with its distance, measured as a half is.

    ``own``: the collecting peer, if it contributes. If there is no majority (two contributors, or no half that agrees),
    its weights are the middle; without it no contributor is left out then. ``limit`` 0: none is left out.
    """
    if not limit or len(samples) < 2:
        return {}
    values = np.stack([sample.values for sample in samples.values()])
    most = np.array([sample.most for sample in samples.values()])
    if len(samples) > 2:
        far = _far(samples, values, most, np.median(values, axis=0), float(np.median(most)), limit)
        if 2 * len(far) < len(samples):
            return far
    if own not in samples:
        return {}
    place = list(samples).index(own)
    return _far(samples, values, most, values[place], float(most[place]), limit)


def _far(
    names: Sequence[str] | Mapping[str, Sample],
    values: NDArray[np.float32],
    most: NDArray[np.float64],
    middle: NDArray[np.float32],
    middle_most: float,
    limit: float,
) -> dict[str, float]:
    """The contributors that are too far from a middle, each with its distance."""
    length = np.sqrt(sum_of_squares(middle))
    found = {}
    for name, sampled, its_most in zip(names, values, most, strict=True):
        with np.errstate(over="ignore"):
            apart = np.sqrt(sum_of_squares(sampled.astype(np.float64) - middle))
        beyond = max(0.0, float(its_most) - middle_most)
        far = max(_over(apart, length), _over(beyond, max(length, middle_most)))
        if far > limit:
            found[name] = far
    return found


def _over(apart: float, length: float) -> float:
    """Half of a distance, relative to the length of the middle."""
    if not apart:
        return 0.0
    return min(float(apart / (2 * length)), FARTHEST) if length else FARTHEST
