"""The layer that stands in a peer's net where its data layer stood: its tops come from the ring of batches.

Caffe makes it by name, so the ring is handed over through this module. The solver steps only when the batches that it
needs are in the ring: nothing here ever waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import caffe

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import ModelError

_ring: BatchRing | None = None
_fill_up = False
_before_pass: Callable[[], None] | None = None


def feed_from(
    ring: BatchRing, *, fill_up: bool = False, before_pass: Callable[[], None] | None = None
) -> None:
    """Let every source layer made from now on read ``ring``; call it before the solver is built.

    ``fill_up``: a batch that is cut short is filled up with its own records, from the first on again, for a net that
    cannot be reshaped. ``before_pass`` is called at the start of each of the net's forward passes.
    """
    global _ring, _fill_up, _before_pass  # Caffe makes the layer from its names alone
    _ring, _fill_up, _before_pass = ring, fill_up, before_pass


class BatchSource(caffe.Layer):  # type: ignore[misc]
    """Some of the ring's tops; a batch that is cut short reshapes the net for its iteration, unless it is filled up.

    ``param_str``: "FIRST:COUNT", which tops of the ring are this layer's. A net's source layers run in the order of
    their tops, so the one that has the ring's last top frees the slot.
    """

    def setup(self, bottom: Any, top: Any) -> None:
        """Check that the ring fits the net."""
        first, count = (int(number) for number in self.param_str.split(":"))
        tops = _ring.tops[first : first + count] if _ring is not None else ()
        if len(top) != count or len(tops) != count:
            expected = "no ring" if _ring is None else f"{len(tops)} for it in the ring of batches"
            raise ModelError(
                f"the net's data layer has {len(top)} tops, and there are {expected}",
                remedy="create the job again",
            )
        self._ring = _ring  # several solvers of one process, as in a simulation, have one each
        self._fill_up = _fill_up
        self._before_pass = _before_pass if first == 0 else None
        self._own = slice(first, first + count)
        self._last = _ring is not None and first + count == len(_ring.tops)
        for index, spec in enumerate(tops):  # pycaffe's vectors can be indexed, not iterated
            top[index].reshape(_ring.batch_records if _ring is not None else 0, *spec.shape)

    def reshape(self, bottom: Any, top: Any) -> None:
        """Follow the next batch's number of records."""
        if self._ring is None or self._fill_up or (batch := self._ring.take(0.0)) is None:
            return
        for index, array in enumerate(batch.arrays[self._own]):
            if top[index].shape[0] != len(array):
                top[index].reshape(*array.shape)

    def forward(self, bottom: Any, top: Any) -> None:
        """Copy the next batch in; the last source layer frees its slot."""
        if self._ring is None or (batch := self._ring.take(0.0)) is None:
            raise RuntimeError("the net ran without a batch in the ring")
        if self._before_pass is not None:
            self._before_pass()
        for index, array in enumerate(batch.arrays[self._own]):
            rows, data = len(array), top[index].data
            data[:rows] = array
            for row in range(rows, len(data)):
                data[row] = array[row % rows]
        if self._last:
            self._ring.release()

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        """Data has no gradient."""
