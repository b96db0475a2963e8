"""The layer that stands in a peer's net where its data layer stood: its tops come from the ring of batches.

Caffe makes it by name, so the ring is handed over through this module. The solver steps only when the batches that it
needs are in the ring: nothing here ever waits.
"""

from __future__ import annotations

from typing import Any

import caffe

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import ModelError

_ring: BatchRing | None = None


def feed_from(ring: BatchRing) -> None:
    """Let every source layer made from now on read ``ring``; call it before the solver is built."""
    global _ring  # noqa: PLW0603 - Caffe makes the layer from its names alone
    _ring = ring


class BatchSource(caffe.Layer):  # type: ignore[misc]
    """Tops as the ring describes them; a batch that is cut short reshapes the net for its iteration."""

    def setup(self, bottom: Any, top: Any) -> None:
        """Check that the ring fits the net."""
        if _ring is None or len(top) != len(_ring.tops):
            expected = "no ring" if _ring is None else f"{len(_ring.tops)} in the ring of batches"
            raise ModelError(
                f"the net's data layer has {len(top)} tops, and there are {expected}",
                remedy="create the job again",
            )
        for index, spec in enumerate(_ring.tops):  # pycaffe's vectors can be indexed, not iterated
            top[index].reshape(_ring.batch_records, *spec.shape)

    def reshape(self, bottom: Any, top: Any) -> None:
        """Follow the next batch's number of records."""
        if _ring is None or (batch := _ring.take(0.0)) is None:
            return
        for index, array in enumerate(batch.arrays):
            if top[index].shape[0] != len(array):
                top[index].reshape(*array.shape)

    def forward(self, bottom: Any, top: Any) -> None:
        """Copy the next batch in, and free its slot."""
        if _ring is None or (batch := _ring.take(0.0)) is None:
            raise RuntimeError("the net ran without a batch in the ring")
        for index, array in enumerate(batch.arrays):
            top[index].data[...] = array
        _ring.release()

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        """Data has no gradient."""
