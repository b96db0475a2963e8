"""How an engine reaches the values of its net's blobs: through the host's memory, or on the card where they are.

Caffe keeps a blob's values on the host, on the card, or on both, and copies them by itself when the other side asks
(``SyncedMemory``). Whoever writes must say where, or the next reader takes the stale side: ``blob.data`` marks the
host's copy as the newest, a device pointer of ``_gossip`` (or of BVLC 1.0) the card's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.solver.layout import WeightLayout, view

Flat = NDArray[np.float32]


class BlobAccess(Protocol):
    """The parameter blobs of one net, as a flat vector. All return when the copy is done."""

    def read(self, out: Flat) -> None:
        """Copy the values out; ``out``: shape (layout.size,)."""
        ...

    def write(self, values: Flat) -> None:
        """Replace them; ``values``: shape (layout.size,)."""
        ...

    def add(self, correction: Flat) -> None:
        """Add to those that are exchanged; ``correction``: shape (layout.exchanged,)."""
        ...

    def lend(self, memory: NDArray[np.uint8]) -> None:
        """Memory in which the vectors of ``read`` and ``add`` will lie: lock its pages, where that speeds copies up."""
        ...


class HostBlobs:
    """Through ``blob.data``: all that there is on the CPU, and right on a card as well.

    There it costs two copies more than need be: of a snapshot's values into Caffe's own host memory first, and of all
    of them back before the next step, because ``blob.data`` may have been written to for all that Caffe knows.
    """

    def __init__(self, blobs: Sequence[Any], layout: WeightLayout) -> None:
        self._blobs = blobs
        self._exchanged = blobs[: len(blobs) - layout.frozen]
        self._layout = layout

    def read(self, out: Flat) -> None:
        """Copy the values out."""
        for blob, part in zip(self._blobs, self._layout.split(out), strict=True):
            np.copyto(part, blob.data)

    def write(self, values: Flat) -> None:
        """Replace them."""
        for blob, part in zip(self._blobs, self._layout.split(values), strict=True):
            blob.data[...] = part

    def add(self, correction: Flat) -> None:
        """Add to them."""
        for blob, spec in zip(self._exchanged, self._layout.blobs, strict=False):
            data = blob.data
            np.add(data, view(correction, spec), out=data)

    def lend(self, memory: NDArray[np.uint8]) -> None:
        """Nothing to do: values are copied by the processor."""
