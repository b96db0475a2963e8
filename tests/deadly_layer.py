"""A Python layer that kills its process with SIGSEGV when a batch holds the label that ``param_str`` names."""

from __future__ import annotations

import os
import signal
from typing import Any

import caffe


class Deadly(caffe.Layer):  # type: ignore[misc]
    """As a layer of a user's with a defect does."""

    def setup(self, bottom: Any, top: Any) -> None:
        """Read the label."""
        self.label = float(self.param_str)

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(1)

    def forward(self, bottom: Any, top: Any) -> None:
        if (bottom[0].data == self.label).any():
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGSEGV)
        top[0].data[...] = 0

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        """Nothing flows back."""
