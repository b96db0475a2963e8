"""The layer that replaces the data layer in a peer's net: it fills its tops from the ring of batches.

Caffe makes the layer from its name, so the layer gets the ring through a variable of this module. The solver steps only
when the ring holds the batches for the step, so the layer never waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import caffe
import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import ModelError
from gossip_caffe.job.prototxts.rewriting import whole_shape

_ring: BatchRing | None = None
_fill_up = False
_before_pass: Callable[[], None] | None = None


def feed_from(
    ring: BatchRing, *, fill_up: bool = False, before_pass: Callable[[], None] | None = None
) -> None:
    """Let every source layer made from now on read ``ring``; call it before the solver is built.

    ``fill_up``: repeat the records of a short batch until it is full, for a net that cannot be reshaped.
    ``before_pass`` is called at the start of each forward pass.
    """
    global _ring, _fill_up, _before_pass  # Caffe makes the layer from its name, without arguments
    _ring, _fill_up, _before_pass = ring, fill_up, before_pass


class BatchSource(caffe.Layer):  # type: ignore[misc]
    """A source layer with some of the ring's tops. A short batch reshapes the net, unless it is filled up.

    ``param_str``: "FIRST:COUNT": the layer's tops among the ring's. A net's source layers run in the order of their
    tops, so the layer with the ring's last top frees the slot.
    """

    def setup(self, bottom: Any, top: Any) -> None:
        """Check that the ring fits the net."""
        first, count = (int(number) for number in self.param_str.split(":"))
        tops = _ring.tops[first : first + count] if _ring is not None else ()
        if len(top) != count or len(tops) != count:
            expected = (
                "there is no ring of batches" if _ring is None else f"the ring of batches has {len(tops)}"
            )
            raise ModelError(
                f"the net's data layer has {len(top)} tops, and {expected}",
                remedy="create the job again",
            )
        self._ring = _ring  # a process may have several solvers, as in a simulation, each with its own ring
        self._fill_up = _fill_up
        self._before_pass = _before_pass if first == 0 else None
        self._own = slice(first, first + count)
        self._last = _ring is not None and first + count == len(_ring.tops)
        for index, spec in enumerate(tops):  # pycaffe's vectors can be indexed, not iterated
            batch = spec.batch_records or (_ring.batch_records if _ring is not None else 0)
            top[index].reshape(*whole_shape(spec, batch))
        self._tops = tops

    def reshape(self, bottom: Any, top: Any) -> None:
        """Reshape the tops to the next batch's number of records, and of boxes."""
        if self._ring is None or (batch := self._ring.take(0.0)) is None:
            return
        own = batch.arrays[self._own]
        for index, array in enumerate(own):
            if self._tops[index].boxes:
                top[index].reshape(*self._repeated(array, len(own[0])).shape)
            elif not self._fill_up and top[index].shape[0] != len(array):
                top[index].reshape(*array.shape)

    def forward(self, bottom: Any, top: Any) -> None:
        """Copy the next batch into the tops; the last source layer frees the slot."""
        if self._ring is None or (batch := self._ring.take(0.0)) is None:
            raise RuntimeError("the net ran without a batch in the ring")
        if self._before_pass is not None:
            self._before_pass()
        own = batch.arrays[self._own]
        for index, array in enumerate(own):
            data = top[index].data
            if self._tops[index].boxes:
                data[...] = self._repeated(array, len(own[0]))
                continue
            rows = min(len(array), len(data))
            data[:rows] = array[:rows]
            for row in range(rows, len(data)):
                data[row] = array[row % rows]
        if self._last:
            self._ring.release()

    def _repeated(self, boxes: NDArray[np.float32], records: int) -> NDArray[np.float32]:
        """Return the boxes of a batch, shape (1, 1, boxes, values), with those of the records that fill it up."""
        size = self._tops[0].batch_records or (self._ring.batch_records if self._ring is not None else 0)
        if not self._fill_up or not 0 < records < size or boxes[0, 0, 0, 0] < 0:
            return boxes
        again = np.concatenate([boxes] * -(-size // records), axis=2)
        again[0, 0, :, 0] += np.repeat(np.arange(0, size, records), boxes.shape[2])
        return again[:, :, again[0, 0, :, 0] < size]

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        """Do nothing: data has no gradient."""
