"""One copy of a peer's weights, shared by all callers that read the same revision of them at the same time."""

from __future__ import annotations

import mmap
import weakref
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.gossip.protocol.ports import Weights
from gossip_caffe.solver.board import SnapshotInfo

Flat = NDArray[np.float32]


@runtime_checkable
class Revised(Protocol):
    """Weights that tell, without a copy, whether they have changed."""

    @property
    def revision(self) -> object:
        """A value that differs after each change of the weights."""
        ...


class SharedCopy:
    """The newest copy of the weights. It is kept exactly as long as a caller holds it."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._revision: object = None
        self._info: SnapshotInfo | None = None
        self._copy: weakref.ref[Flat] | None = None

    def newest(self) -> tuple[Flat, SnapshotInfo]:
        """All values as of now, shape (size,), float32, read-only; and the snapshot's description."""
        # The revision is read before the copy is made. A change during the copy then makes the next caller copy again.
        revision = self._weights.revision if isinstance(self._weights, Revised) else None
        known = self._copy() if self._copy is not None and revision == self._revision is not None else None
        if known is not None and self._info is not None:
            return known, self._info
        # The memory of a separate mapping returns to the system as soon as the last caller drops it.
        memory = mmap.mmap(-1, max(1, 4 * self._weights.size))
        copy: Flat = np.frombuffer(memory, np.float32, self._weights.size)
        self._info = self._weights.snapshot(copy)
        copy.flags.writeable = False
        self._revision, self._copy = revision, weakref.ref(copy)
        return copy, self._info
