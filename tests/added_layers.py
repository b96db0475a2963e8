"""The layers that this project's pycaffe adds to Caffe: one of them in float64, and the differences of its outputs.

A foreign pycaffe lacks the layers, or float64: ``added_layers()`` is the mark of tests that need both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import caffe
import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[np.float64]
DIFFERENCE = 1e-6
"""Half the distance of two values whose outputs are compared: their error is about its square, in float64."""


def added_layers() -> pytest.MarkDecorator:
    """The mark of tests that need the layers of this project's pycaffe."""
    return pytest.mark.skipif(
        not hasattr(caffe._caffe, "DoubleLayer"),
        reason="this pycaffe lacks the layers of deploy/pycaffe/layers: run 'make pycaffe'",
    )


class Checked:
    """A layer in float64 whose gradients are compared with differences of its outputs."""

    def __init__(self, text: str, parameters: Sequence[Array] | None = None) -> None:
        self.layer: Any = caffe._caffe.DoubleLayer(text)
        self.parameters = parameters

    def forward(self, bottoms: Sequence[Array]) -> list[Array]:
        """The tops, from the parameters as they were given: a pass may change them."""
        if self.parameters is not None:
            if not self.layer.parameters():
                self.layer.forward(list(bottoms))
            self.layer.set_parameters(list(self.parameters))
        tops: list[Array] = self.layer.forward(list(bottoms))
        return tops

    def gradients(
        self, bottoms: Sequence[Array], weights: Sequence[Array], wanted: Sequence[bool]
    ) -> tuple[list[Array], list[Array]]:
        """The gradients of the tops' sum, weighted: by the bottoms, and by the parameters."""
        self.forward(bottoms)
        by_bottoms = self.layer.backward(list(weights), list(wanted))
        return by_bottoms, self.layer.parameter_gradients()

    def differences(self, bottoms: Sequence[Array], weights: Sequence[Array], variable: Array) -> Array:
        """The same gradient by differences. ``variable``: one of the bottoms or of the parameters, itself."""
        found = np.zeros_like(variable)
        for place in np.ndindex(variable.shape):
            kept = variable[place]
            sums = []
            for moved in (kept + DIFFERENCE, kept - DIFFERENCE):
                variable[place] = moved
                tops = self.forward(bottoms)
                sums.append(
                    sum(float((top * weight).sum()) for top, weight in zip(tops, weights, strict=True))
                )
            variable[place] = kept
            found[place] = (sums[0] - sums[1]) / (2 * DIFFERENCE)
        return found


def check_gradients(
    checked: Checked, bottoms: Sequence[Array], wanted: Sequence[bool], *, parameters: bool = False
) -> None:
    """Compare every gradient that is wanted with differences, the tops weighted at random."""
    rng = np.random.default_rng(5)
    weights = [np.asarray(rng.normal(size=top.shape)) for top in checked.forward(bottoms)]
    by_bottoms, by_parameters = checked.gradients(bottoms, weights, wanted)
    pairs = [(found, bottoms[b]) for b, found in enumerate(by_bottoms) if wanted[b]]
    if parameters:
        assert checked.parameters is not None
        pairs += zip(by_parameters, checked.parameters, strict=True)
    for found, variable in pairs:
        expected = checked.differences(bottoms, weights, variable)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
