"""A Python layer that takes a set time for each pass, so that a test knows how fast a peer trains on any machine."""

from __future__ import annotations

import os
import time
from typing import Any

import caffe


class Paced(caffe.Layer):  # type: ignore[misc]
    """Sleeps for so many milliseconds at each forward pass; its top is a zero.

    ``param_str``: the milliseconds (none: $PACE_MS), and a file: once it is there, nobody sleeps any more.
    """

    def setup(self, bottom: Any, top: Any) -> None:
        """Read how long."""
        milliseconds, _, self.hurry = self.param_str.partition(" ")
        self.seconds = float(milliseconds or os.environ.get("PACE_MS", "0")) / 1000

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(1)

    def forward(self, bottom: Any, top: Any) -> None:
        if not os.path.exists(self.hurry):  # noqa: PTH110 - at every pass, and so it takes a microsecond
            time.sleep(self.seconds)
        top[0].data[...] = 0

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        """Nothing flows back."""
