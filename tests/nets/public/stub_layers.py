"""Python layers in the places of a detector's own: pictures and boxes, and proposals of regions."""

from __future__ import annotations

from typing import Any

import caffe
import numpy as np


class Shaped(caffe.Layer):  # type: ignore[misc]
    """Tops of given shapes: ``param_str`` is "1,3,8,8; 4,5 regions; 4 labels 21". No bottoms."""

    def setup(self, bottom: Any, top: Any) -> None:
        """Read the shapes, and the kind of each top's values."""
        self.rng = np.random.default_rng(7)
        self.forms = []
        for entry in self.param_str.split(";"):
            words = entry.split()
            self.forms.append((tuple(int(size) for size in words[0].split(",")), words[1:]))

    def reshape(self, bottom: Any, top: Any) -> None:
        for number, (shape, _) in enumerate(self.forms):
            top[number].reshape(*shape)

    def forward(self, bottom: Any, top: Any) -> None:
        for number, (shape, kind) in enumerate(self.forms):
            blob = top[number]
            if not kind:
                blob.data[...] = self.rng.normal(size=shape)
            elif kind[0] == "labels":
                blob.data[...] = self.rng.integers(int(kind[2]) if len(kind) > 2 else 0, int(kind[1]), shape)
            elif kind[0] == "weights":
                blob.data[...] = self.rng.integers(0, 2, shape)
            elif kind[0] == "regions":  # image 0, then x1, y1, x2, y2 within the side that is given
                corners = np.sort(self.rng.uniform(0, int(kind[1]), (shape[0], 2, 2)), axis=1).reshape(-1, 4)
                blob.data[...] = np.column_stack([np.zeros(shape[0]), corners])
            elif (
                kind[0] == "boxes"
            ):  # item, group, instance, then xmin, ymin, xmax, ymax as parts of 1, and difficult
                boxes = blob.data.reshape(-1, 8)
                boxes[:, 0] = np.arange(len(boxes)) % int(kind[1])
                boxes[:, 0].sort()
                boxes[:, 1:3] = 1, 0
                boxes[:, 3:5], boxes[:, 5:7], boxes[:, 7] = 0.2, 0.7, 0

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        """Data has no gradient."""


class Proposals(Shaped):
    """The same with bottoms that are not looked at: a stub of a layer that proposes regions, or targets for them."""
