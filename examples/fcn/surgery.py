"""The surgery: dense layers become convolutions, and the layer that enlarges begins as bilinear interpolation."""

from __future__ import annotations

from typing import Any

import numpy as np


def transplant(net: Any, donor: Any, pairs: dict[str, str]) -> None:
    """Give layers of ``net`` the weights of layers of ``donor`` that hold as many, in the same order.

    ``pairs``: layer of ``net`` → layer of ``donor``. A dense layer over C×H×W values has the weights of a
    convolution with an H×W kernel.
    """
    for ours, theirs in pairs.items():
        for blob, given in zip(net.params[ours], donor.params[theirs], strict=True):
            blob.data.flat = given.data.flat


def interpolate(net: Any, layer: str) -> None:
    """Let a Deconvolution layer, whose stride is half of its kernel, enlarge each channel bilinearly."""
    (weights,) = net.params[layer]
    channels, _, size, _ = weights.data.shape
    distance = abs(np.arange(size) - (size - 1) / 2) / (size // 2)
    weights.data[...] = 0
    weights.data[range(channels), range(channels)] = np.outer(1 - distance, 1 - distance)
