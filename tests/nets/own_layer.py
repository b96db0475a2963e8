"""A user's Python layer that makes points of two classes: what a net without files trains on."""

from __future__ import annotations

from typing import Any

import caffe
import numpy as np


class TwoSpirals(caffe.Layer):  # type: ignore[misc]
    """``param_str``: how many points a batch has; tops: points (n, 2) and their class (n,)."""

    def setup(self, bottom: Any, top: Any) -> None:
        """Begin a fixed stream of points."""
        self._points = int(self.param_str)
        self._rng = np.random.default_rng(5)

    def reshape(self, bottom: Any, top: Any) -> None:
        """Size the tops."""
        top[0].reshape(self._points, 2)
        top[1].reshape(self._points)

    def forward(self, bottom: Any, top: Any) -> None:
        """Draw a batch."""
        labels = self._rng.integers(0, 2, self._points)
        turn = self._rng.uniform(0.2, 1, self._points)
        angle = 4 * turn + np.pi * labels
        top[0].data[...] = np.stack([turn * np.cos(angle), turn * np.sin(angle)], axis=1)
        top[1].data[...] = labels

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        """Data has no gradient."""
