"""The script's own data: points around ten centres, made by a Python layer. Each peer trains those of its rank."""

import os
from pathlib import Path
from typing import Any

import caffe
import numpy as np

RECORDS, BATCH, FEATURES, CLASSES = 4000, 16, 20, 10


def points(seed: int, count: int) -> tuple[Any, Any]:
    """``count`` points and their classes."""
    random = np.random.RandomState(seed)
    labels = random.randint(CLASSES, size=count)
    centres = np.random.RandomState(7).normal(size=(CLASSES, FEATURES))
    return centres[labels] + random.normal(scale=0.8, size=(count, FEATURES)), labels


class Points(caffe.Layer):
    """Every count-th of the records, beginning with the rank-th."""

    def setup(self, bottom: Any, top: Any) -> None:
        """Take this rank's share."""
        order = np.random.RandomState(1).permutation(RECORDS)
        self.mine = order[caffe.solver_rank() :: caffe.solver_count()]
        self.values, self.labels = points(1, RECORDS)
        self.next = 0
        top[0].reshape(BATCH, FEATURES)
        top[1].reshape(BATCH)

    def reshape(self, bottom: Any, top: Any) -> None:
        """The tops keep their size."""

    def forward(self, bottom: Any, top: Any) -> None:
        """Bring the next records."""
        records = self.mine[(self.next + np.arange(BATCH)) % len(self.mine)]
        self.next += BATCH
        top[0].data[...], top[1].data[...] = self.values[records], self.labels[records]
        if "DRAWN" in os.environ:
            with Path(os.environ["DRAWN"], str(os.getpid())).open("a") as file:
                file.write(f"{caffe.solver_rank()} {' '.join(map(str, records))}\n")

    def skip_passes(self, passes: int) -> None:
        """Begin behind the records that this rank has trained before."""
        self.next += passes * BATCH

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        """Data has no gradient."""
