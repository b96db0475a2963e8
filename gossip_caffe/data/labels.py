"""The check of labels before Caffe gets them, one comparison a batch: Caffe would use any label as an index."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.errors import CorruptRecord
from gossip_caffe.job.spec.spec import LabelBound, TopSpec

Values = NDArray[np.float32]


def check_labels(
    bounds: Sequence[LabelBound],
    tops: Sequence[TopSpec],
    values: Sequence[Values],
    where: Callable[[int], str],
) -> None:
    """Raise CorruptRecord for the first record with a label out of its bounds.

    ``values``: an array for each of ``tops``, shape (records, *top.shape); ``where``: returns a record's name, from its
    row.
    """
    for bound in bounds:
        found = first_wrong(bound, values[bound.top])
        if found is not None:
            row, value, place = found
            name = tops[bound.top].name
            name = f"value {place} of {name}" if bound.spans else name
            raise CorruptRecord(
                f"{where(row)}: {name} {_shown(value)}, but layer {bound.layer!r} takes {bound.words()}",
                remedy="correct the label, or give the net more outputs; "
                "--set corrupt_records=skip skips such records",
            )


def first_wrong(bound: LabelBound, values: Values) -> tuple[int, float, int] | None:
    """Find the first value out of bounds. Returns its row, the value, and its place in the record; None: all are right.

    ``values``: shape (records, *shape). Fractions are cut off, as Caffe does.
    """
    if not values.size:
        return None
    if not bound.spans:
        return _first_wrong(bound, values)
    flat = values.reshape(len(values), -1)
    places = np.concatenate([np.arange(span.start, span.stop) for span in bound.spans])
    found = _first_wrong(bound, flat[:, places])
    return found if found is None else (found[0], found[1], int(places[found[2]]))


def _first_wrong(bound: LabelBound, values: Values) -> tuple[int, float, int] | None:
    if bound.classes and values.min() > -1 and values.max() < bound.classes:
        return None  # the usual case; NaN fails both comparisons
    flat = values.reshape(len(values), -1)
    if bound.classes:
        right = (flat > -1) & (flat < bound.classes)
        for ignored in bound.ignored:
            right |= np.trunc(flat) == ignored
    else:
        right = np.isfinite(flat)
    if right.all():
        return None
    row, column = np.argwhere(~right)[0]
    return int(row), float(flat[row, column]), int(column)


def _shown(value: float) -> str:
    return f"{value:.0f}" if np.isfinite(value) and value == int(value) else f"{value:g}"
