"""The origin of the values of a net's blobs: which source layer's top they come from, and from which of its values.

Values are followed through layers that only cut, join and reshape, with the memory layout of Caffe's Slice, Concat,
Reshape and Flatten.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.job.prototxts.nets import Layer, brings_data
from gossip_caffe.job.spec.spec import Span

Shapes = Mapping[str, Sequence[int]]
"""Blob name → shape, whose first axis is that of the batch."""
TopOfSource = tuple[str, int]
"""(Name of a source layer, index of one of its tops)."""
Places = NDArray[np.int64]

MOST_SPANS = 64
"""Limit of the spans of one bound, because the bound is stored in the job's record."""
_PASS_ON = frozenset({"Split", "Reshape", "Flatten"})
"""Layers whose tops hold exactly the values of their bottom."""
_ELSEWHERE = -1
_TOP_STEP = 1 << 40
"""A value is encoded as (index of its source's top) × this + its position among the values of a record."""


@dataclass(frozen=True, slots=True)
class _Origin:
    """The origin of a blob's values: all values of the tops in ``whole``, and the single values in ``places``.

    ``is_laid_out``: ``places`` has the shape of one record of the blob, and gives the origin of each of its values.
    Otherwise the blob holds at least these values, in an unknown order.
    """

    whole: tuple[int, ...] = ()
    places: Places = field(default_factory=lambda: np.empty(0, np.int64))
    is_laid_out: bool = False

    def without_order(self) -> _Origin:
        """The same values, in an unknown order."""
        return _Origin(self.whole, self.places.reshape(-1))


class LabelOrigins:
    """The origins of all blobs, after ``pass_on`` was called for each layer in order.

    ``shapes``: the known shapes of the net's blobs.
    """

    def __init__(self, layers: Sequence[Layer], shapes: Shapes) -> None:
        self._tops = [
            (layer.name, number)
            for layer in layers
            if brings_data(layer)
            for number in range(len(layer.tops))
        ]
        self._numbers = {top: number for number, top in enumerate(self._tops)}
        self._shapes = shapes
        self._origins: dict[str, _Origin] = {}
        self._sizes: dict[int, int] = {}

    def values_of(self, blob: str) -> Iterator[tuple[TopOfSource, tuple[Span, ...]]]:
        """The (top, spans) whose values a blob holds now; no spans means all values of the top.

        Tops with more than MOST_SPANS spans are left out.
        """
        origin = self._origins.get(blob, _Origin())
        for number in origin.whole:
            yield self._tops[number], ()
        values = np.unique(origin.places[origin.places != _ELSEWHERE])
        for number in np.unique(values // _TOP_STEP).tolist():
            if number in origin.whole:
                continue
            spans = _spans(values[values // _TOP_STEP == number] % _TOP_STEP)
            if spans == (Span(0, self._sizes[number]),):
                yield self._tops[number], ()
            elif len(spans) <= MOST_SPANS:
                yield self._tops[number], spans

    def pass_on(self, layer: Layer) -> None:
        """Record the origins of the layer's tops."""
        bottoms = [self._origins.get(name, _Origin()) for name in layer.fields.texts("bottom")]
        if brings_data(layer):
            tops = [self._brought((layer.name, number), top) for number, top in enumerate(layer.tops)]
        elif layer.type in _PASS_ON and bottoms:
            tops = [self._reshaped(bottoms[0], layer, top) for top in layer.tops]
        elif layer.type == "Slice" and bottoms:
            tops = self._cut(bottoms[0], layer)
        elif layer.type == "Concat" and bottoms:
            tops = [self._joined(bottoms, layer)]
        else:
            tops = []  # the layer overwrites its top, for instance in place
        for number, top in enumerate(layer.tops):
            self._origins[top] = tops[number] if number < len(tops) else _Origin()

    def _brought(self, top: TopOfSource, blob: str) -> _Origin:
        number = self._numbers[top]
        if (shape := self._of_record(blob)) is None:
            return _Origin((number,))
        size = self._sizes[number] = math.prod(shape)
        return _Origin((number,), number * _TOP_STEP + np.arange(size).reshape(shape), is_laid_out=True)

    def _reshaped(self, origin: _Origin, layer: Layer, top: str) -> _Origin:
        """The origin after a Reshape. While the batch's axis stays, the values of each record keep their order."""
        bottom, shape = layer.fields.texts("bottom")[0], self._of_record(top)
        is_alike = shape is not None and self._batch(bottom) == self._batch(top)
        if not origin.is_laid_out or shape is None or not is_alike or origin.places.size != math.prod(shape):
            return origin.without_order()
        return _Origin(origin.whole, origin.places.reshape(shape), is_laid_out=True)

    def _cut(self, origin: _Origin, layer: Layer) -> list[_Origin]:
        """The origins after a Slice along an axis other than the batch's.

        Along the batch's axis they are unknown in advance.
        """
        places, at = origin.places, 0
        axis = _axis(layer, "slice_param", "slice_dim", places.ndim + 1)
        if not origin.is_laid_out or not axis:
            return []
        tops = []
        for shape in map(self._of_record, layer.tops):
            if shape is None or len(shape) != places.ndim:
                return []
            stop = at + shape[axis - 1]
            part = places[(slice(None),) * (axis - 1) + (slice(at, stop),)]
            if part.shape != shape:
                return []
            tops.append(_Origin((), part, is_laid_out=True))
            at = stop
        return tops

    def _joined(self, bottoms: Sequence[_Origin], layer: Layer) -> _Origin:
        """The origin after a Concat.

        Along the batch's axis, or with unknown shapes, all values are present in unknown order.
        """
        parts = [
            origin.places if origin.is_laid_out else self._of_elsewhere(name)
            for name, origin in zip(layer.fields.texts("bottom"), bottoms, strict=True)
        ]
        known = [part for part in parts if part is not None]
        axis = _axis(layer, "concat_param", "concat_dim", known[0].ndim + 1) if known else None
        if axis and len(known) == len(parts) and _fit(known, axis - 1):
            return _Origin((), np.concatenate(known, axis - 1), is_laid_out=True)
        whole = tuple(dict.fromkeys(number for origin in bottoms for number in origin.whole))
        return _Origin(whole, np.concatenate([origin.places.reshape(-1) for origin in bottoms]))

    def _of_elsewhere(self, blob: str) -> Places | None:
        """The places of values that come from no source; None where they are not known."""
        shape, origin = self._of_record(blob), self._origins.get(blob, _Origin())
        if shape is None or origin.whole or origin.places.size:
            return None
        return np.full(shape, _ELSEWHERE, np.int64)

    def _batch(self, blob: str) -> int | None:
        shape = self._shapes.get(blob)
        return shape[0] if shape else None

    def _of_record(self, blob: str) -> tuple[int, ...] | None:
        """The shape of a blob without the batch's axis; None where it is not known."""
        shape = self._shapes.get(blob)
        return tuple(shape[1:]) if shape else None


def _axis(layer: Layer, param: str, old: str, axes: int) -> int | None:
    """The axis along which a layer cuts or joins, the batch's axis being 0; None when the blob has no such axis."""
    given = layer.fields.message(param)
    axis = 1
    if given is not None:
        axis = given.integer(old) if given.last(old) is not None else given.integer("axis", 1)
    axis += axes if axis < 0 else 0
    return axis if 0 <= axis < axes else None


def _fit(parts: Sequence[Places], axis: int) -> bool:
    """True if the arrays agree in all axes but one."""
    others = {part.shape[:axis] + part.shape[axis + 1 :] for part in parts}
    return len(others) == 1 and len({part.ndim for part in parts}) == 1


def _spans(places: Places) -> tuple[Span, ...]:
    """Ascending places as ranges."""
    ends = np.flatnonzero(np.diff(places) != 1)
    starts = [0, *(ends + 1).tolist()]
    stops = [*(ends + 1).tolist(), len(places)]
    return tuple(
        Span(int(places[first]), int(places[last - 1]) + 1) for first, last in zip(starts, stops, strict=True)
    )
