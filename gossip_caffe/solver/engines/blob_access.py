"""How an engine reads and writes the values of its net's blobs: in the host's memory, or on the GPU.

Caffe keeps a blob's values on the host, on the GPU, or on both, and copies them when the other side is accessed
(``SyncedMemory``). A writer must mark the side that it writes as the newest, or the next reader gets the stale side:
``blob.data`` marks the host's copy, a device pointer of ``_gossip`` (or of BVLC 1.0) marks the GPU's copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.solver.engines.layout import WeightLayout, view

Flat = NDArray[np.float32]


class BlobAccess(Protocol):
    """The parameter blobs of one net as a flat float32 vector. Each method returns when its copy is done."""

    def read(self, out: Flat) -> None:
        """Copy the values to ``out``, shape (layout.size,)."""
        ...

    def write(self, values: Flat) -> None:
        """Replace the values by ``values``, shape (layout.size,)."""
        ...

    def add(self, correction: Flat) -> None:
        """Add ``correction``, shape (layout.exchanged,), to the exchanged values."""
        ...

    def lend(self, memory: NDArray[np.uint8]) -> None:
        """Announce the memory in which the vectors of ``read`` and ``add`` lie: its pages may be locked for speed."""
        ...


class HostBlobs:
    """Access through ``blob.data``: the only way on the CPU, and correct on a GPU as well.

    On a GPU it costs two extra copies: a snapshot's values go to Caffe's own host memory first, and all values go back
    to the GPU before the next step, because Caffe must assume that ``blob.data`` was written.
    """

    def __init__(self, blobs: Sequence[Any], layout: WeightLayout) -> None:
        self._blobs = blobs
        self._exchanged = blobs[: len(blobs) - layout.frozen]
        self._layout = layout

    def read(self, out: Flat) -> None:
        """Copy the values to ``out``, shape (layout.size,)."""
        for blob, part in zip(self._blobs, self._layout.split(out), strict=True):
            np.copyto(part, blob.data)

    def write(self, values: Flat) -> None:
        """Replace the values by ``values``, shape (layout.size,)."""
        for blob, part in zip(self._blobs, self._layout.split(values), strict=True):
            blob.data[...] = part

    def add(self, correction: Flat) -> None:
        """Add ``correction``, shape (layout.exchanged,), to the exchanged values."""
        for blob, spec in zip(self._exchanged, self._layout.blobs, strict=False):
            data = blob.data
            np.add(data, view(correction, spec), out=data)

    def lend(self, memory: NDArray[np.uint8]) -> None:
        """Do nothing: the CPU copies the values, and needs no locked pages."""
