"""The gradient of a net's parameters: its length, and its limit while several peers train.

Caffe calls ``clip`` after the last backward pass of an iteration and before the update, in which it applies the
solver's own clip_gradients (SGDSolver::ClipGradients). So the smaller limit counts. On a GPU the gradients are copied
to the host for this, and back when they are shortened.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Gradients:
    """The gradients of these parameter blobs. ``limit``: the longest allowed, 0.0 for any; ``length``: the last one."""

    def __init__(self, blobs: Sequence[Any]) -> None:
        self._blobs = blobs
        self.limit = self.length = 0.0

    def clip(self) -> None:
        """Measure the gradient, and shorten it to the limit if it is longer. Does nothing without a limit."""
        if not self.limit:
            return
        self.length = shorten([blob.diff for blob in self._blobs], self.limit)


def shorten(gradients: Sequence[NDArray[np.float32]], limit: float) -> float:
    """Scale the gradients so that all together are at most ``limit`` long (L2). Returns their length before that."""
    length = math.sqrt(sum(float(np.dot(each.ravel(), each.ravel())) for each in gradients))
    if length > limit:
        share = np.float32(limit / length)
        for gradient in gradients:
            np.multiply(gradient, share, out=gradient)
    return length
