"""A layer that stands for a slower machine: each pass takes $PACE_MS milliseconds longer."""

from __future__ import annotations

import os
import time
from typing import Any

import caffe


class Pace(caffe.Layer):  # type: ignore[misc]
    """Sleeps at each forward pass; its top is a zero."""

    def setup(self, bottom: Any, top: Any) -> None:
        """Read how long."""
        self.seconds = float(os.environ.get("PACE_MS", "0")) / 1000

    def reshape(self, bottom: Any, top: Any) -> None:
        """The top is one number."""
        top[0].reshape(1)

    def forward(self, bottom: Any, top: Any) -> None:
        """Sleep."""
        time.sleep(self.seconds)
        top[0].data[...] = 0

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        """Nothing flows back."""
