"""The data: pictures of three kinds of shapes before a noisy ground, made by Python layers. Each peer has its own."""

import json
import os
from typing import Any

import caffe
import numpy as np

KINDS = 4
"""The ground, and discs, squares and crosses."""


def shape_at(kind: int, random: Any, side: int) -> Any:
    """A mask, bool of shape (side, side), of a shape at a random place."""
    size = random.randint(4, 8)
    down, right = np.mgrid[:side, :side] - random.randint(size, side - size + 1, 2)[:, None, None]
    if kind == 1:
        return down**2 + right**2 <= size**2
    if kind == 2:
        return np.maximum(abs(down), abs(right)) < size
    return (np.minimum(abs(down), abs(right)) <= 1) & (np.maximum(abs(down), abs(right)) <= size)


def picture(kinds: Any, random: Any, side: int) -> tuple[Any, Any]:
    """A picture with these shapes, of shape (3, side, side), and the kind of each pixel."""
    pixels = random.normal(scale=0.5, size=(3, side, side))
    truth = np.zeros((side, side), np.int64)
    for kind in kinds:
        mask = shape_at(kind, random, side)
        pixels[:, mask] += random.uniform(0.7, 1.5)
        truth[mask] = kind
    return pixels, truth


class One(caffe.Layer):
    """Pictures of 16×16 pixels with one shape each, and its kind less 1: what a classifier learns."""

    def setup(self, bottom: Any, top: Any) -> None:
        """Begin the sequence of this peer's rank."""
        self.batch = json.loads(self.param_str)["batch"]
        self.random = np.random.RandomState(1000 + int(os.environ.get("GOSSIP_CAFFE_RANK", "0")))
        self.give_shapes(top)

    def give_shapes(self, top: Any) -> None:
        """Give the tops their shapes."""
        top[0].reshape(self.batch, 3, 16, 16)
        top[1].reshape(self.batch)

    def reshape(self, bottom: Any, top: Any) -> None:
        """The tops keep theirs."""

    def forward(self, bottom: Any, top: Any) -> None:
        """Make a batch."""
        for index in range(self.batch):
            kind = self.random.randint(1, KINDS)
            top[0].data[index], _ = picture([kind], self.random, 16)
            top[1].data[index] = kind - 1

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        """Data has no gradient."""


class Many(One):
    """Pictures of 32×32 pixels with three shapes each, and the kind of each pixel: what the net of pixels learns."""

    def give_shapes(self, top: Any) -> None:
        """Give the tops their shapes."""
        top[0].reshape(self.batch, 3, 32, 32)
        top[1].reshape(self.batch, 1, 32, 32)

    def forward(self, bottom: Any, top: Any) -> None:
        """Make a batch."""
        for index in range(self.batch):
            found = picture(self.random.randint(1, KINDS, 3), self.random, 32)
            top[0].data[index], top[1].data[index, 0] = found
