"""The boxes of a picture: seen through a window, and pieces of the picture that are drawn by their overlap with them.

Follows sampler.cpp, bbox_util.cpp and DataTransformer::TransformAnnotation of SSD's Caffe, in single precision too.
Windows and boxes are in parts of the picture's width and height: xmin, ymin, xmax, ymax.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.job.spec.spec import BoxesSpec, SamplerSpec
from gossip_caffe.mixing import mixed, uniform

Floats = NDArray[np.float32]
VALUES = 8
"""The values of a box in a batch: item, label, instance, xmin, ymin, xmax, ymax, difficult."""
MOST_BOXES = 2048
"""The most boxes of a record. The memory of a batch is only used as far as there are boxes."""
CORNERS = slice(3, 7)
WHOLE = np.array([0, 0, 1, 1], dtype=np.float32)


class Draws:
    """Random numbers for one record: a function of the job's seed, the epoch and the record."""

    def __init__(self, seed: int, epoch: int, record: int) -> None:
        salt = mixed(np.array([seed, epoch, record], dtype=np.uint64))
        self._base = mixed(salt[:1] + (salt[1:2] << np.uint64(1)) + (salt[2:] << np.uint64(2)))
        self._drawn = 0

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Draw ``count`` numbers in the open interval (0, 1)."""
        numbers = np.arange(self._drawn, self._drawn + count, dtype=np.uint64)
        self._drawn += count
        return uniform(mixed(self._base ^ numbers))

    def one(self) -> float:
        """Draw one number in (0, 1)."""
        return float(self.uniform(1)[0])


def seen(rows: Floats, window: Floats, spec: BoxesSpec) -> Floats:
    """Return the boxes that are seen through a window, in its coordinates. ``rows``: shape (n, VALUES)."""
    corners = rows[:, CORNERS]
    inside = (corners[:, :2] < window[2:]).all(axis=1) & (corners[:, 2:] > window[:2]).all(axis=1)
    if spec.emit == "CENTER":
        centres = (corners[:, :2] + corners[:, 2:]) / np.float32(2)
        inside &= ((centres >= window[:2]) & (centres <= window[2:])).all(axis=1)
    elif spec.emit:
        inside &= _share(corners, window, corners) > np.float32(spec.emit_overlap)
    found = rows[inside]
    size = window[2:] - window[:2]
    projected = (found[:, CORNERS] - np.tile(window[:2], 2)) / np.tile(size, 2)
    found[:, CORNERS] = np.clip(projected, 0, 1)
    return found[_areas(found[:, CORNERS]) > 0]


def mirrored(rows: Floats) -> Floats:
    """Return the boxes of a mirrored picture."""
    result = rows.copy()
    result[:, 3] = 1 - rows[:, 5]
    result[:, 5] = 1 - rows[:, 3]
    return result


def drawn_window(rows: Floats, samplers: Sequence[SamplerSpec], draws: Draws) -> Floats | None:
    """Draw pieces as the samplers say, and choose one of all that are accepted; None: none is."""
    accepted = np.concatenate([np.empty((0, 4), np.float32), *_accepted(rows, samplers, draws)])
    if not len(accepted):
        return None
    chosen: Floats = np.clip(accepted[int(draws.one() * len(accepted))], 0, 1)
    return chosen


def pieces(sampler: SamplerSpec, numbers: NDArray[np.float64]) -> Floats:
    """Return pieces of a picture. ``numbers``: in (0, 1), shape (n, 4): scale, aspect ratio, left, top."""
    scale = _between(sampler.min_scale, sampler.max_scale, numbers[:, 0])
    aspect = _between(
        np.maximum(sampler.min_aspect_ratio, scale**2),
        np.minimum(sampler.max_aspect_ratio, 1 / scale**2),
        numbers[:, 1],
    )
    width, height = scale * np.sqrt(aspect), scale / np.sqrt(aspect)
    left, top = _between(0, 1 - width, numbers[:, 2]), _between(0, 1 - height, numbers[:, 3])
    return np.stack([left, top, left + width, top + height], axis=1).astype(np.float32)


def satisfies(sampler: SamplerSpec, windows: Floats, corners: Floats) -> NDArray[np.bool_]:
    """Return for each of n windows if a sampler accepts it, given the boxes of the picture, shape (m, 4)."""
    if not sampler.measure:
        return np.ones(len(windows), dtype=np.bool_)
    windows, corners = windows[:, None], corners[None]
    if sampler.measure == "jaccard":
        common = _common(windows, corners)
        measured = common / (_areas(windows) + _areas(corners) - common)
    else:
        whole = windows if sampler.measure == "sample" else corners
        measured = _share(windows, corners, whole)
    accepted = (measured >= np.float32(sampler.least)) & (measured <= np.float32(sampler.most))
    return np.asarray(accepted.any(axis=1))


def packed(array: Floats, records: int) -> int:
    """Move the boxes of ``records`` records to the beginning of a batch's memory. Returns their number.

    ``array``: shape (most records, most boxes, VALUES); the first value of a record's first box is the number of its
    boxes. After that the first value of each box is the record's number in the batch. A batch without boxes gets one
    of -1, as in Caffe.
    """
    flat = array.reshape(-1, VALUES)
    at = 0
    for record in range(records):
        count = int(array[record, 0, 0])
        boxes = array[record, :count].copy()
        boxes[:, 0] = record
        flat[at : at + count] = boxes
        at += count
    if not at:
        flat[0] = -1
    return max(at, 1)


def _accepted(rows: Floats, samplers: Sequence[SamplerSpec], draws: Draws) -> Iterator[Floats]:
    for sampler in samplers:
        windows = pieces(sampler, draws.uniform(4 * sampler.max_trials).reshape(-1, 4))
        found = windows[satisfies(sampler, windows, rows[:, CORNERS])]
        yield found[: sampler.max_sample] if sampler.max_sample else found


def _between(low: object, high: object, number: NDArray[np.float64]) -> NDArray[np.float64]:
    lowest, highest = np.asarray(low, np.float64), np.asarray(high, np.float64)
    result: NDArray[np.float64] = lowest + (highest - lowest) * number
    return result


def _share(one: Floats, other: Floats, whole: Floats) -> Floats:
    """Return the common area of boxes as a share of the area of ``whole``; 0 without a common area."""
    common = _common(one, other)
    result: Floats = np.divide(common, _areas(whole), out=np.zeros_like(common), where=common > 0)
    return result


def _common(one: Floats, other: Floats) -> Floats:
    low, high = np.maximum(one[..., :2], other[..., :2]), np.minimum(one[..., 2:], other[..., 2:])
    return _areas(np.concatenate([low, high], axis=-1))


def _areas(corners: Floats) -> Floats:
    """Return widths times heights; 0 where one of them is negative."""
    size = corners[..., 2:] - corners[..., :2]
    result: Floats = np.where((size >= 0).all(axis=-1), size[..., 0] * size[..., 1], np.float32(0))
    return result
