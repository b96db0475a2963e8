"""A user's Python layers that read their records themselves, and write down in $DRAWN which they drew."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import caffe
import numpy as np

RECORDS = 4000
BATCH = 4
FEATURES = 10


class Ranked(caffe.Layer):  # type: ignore[misc]
    """Every count-th of the shuffled records, beginning with the rank-th; ``param_str``: seconds that a batch takes."""

    def setup(self, bottom: Any, top: Any) -> None:
        """Choose the records of this rank, as whoever else has it."""
        self.log({"rank": caffe.solver_rank(), "count": caffe.solver_count(), "seed": _variable("SEED")})
        assert (_variable("RANK"), _variable("COUNT")) == (caffe.solver_rank(), caffe.solver_count())
        order = np.random.RandomState(1337).permutation(RECORDS)
        self._mine = order[caffe.solver_rank() :: caffe.solver_count()]
        self._next = 0
        self.begin(top)

    def begin(self, top: Any) -> None:
        """Size the tops, and make the truth that is learned."""
        self._truth = np.random.RandomState(7).normal(size=FEATURES)
        top[0].reshape(BATCH, FEATURES)
        top[1].reshape(BATCH)

    def reshape(self, bottom: Any, top: Any) -> None:
        """The tops keep their size."""

    def draw(self) -> list[int]:
        """The numbers of the next records."""
        records = self._mine[(self._next + np.arange(BATCH)) % len(self._mine)]
        self._next += BATCH
        return [int(record) for record in records]

    def forward(self, bottom: Any, top: Any) -> None:
        """Bring a batch."""
        time.sleep(float(self.param_str or 0))
        records = self.draw()
        self.log({"drew": records})
        data = np.stack([np.random.RandomState(record).normal(size=FEATURES) for record in records])
        top[0].data[...], top[1].data[...] = data, data @ self._truth > 0

    def skip_passes(self, passes: int) -> None:
        """Begin so many batches later."""
        self.log({"skipped": passes})
        self._next += passes * BATCH

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        """Data has no gradient."""

    def log(self, what: dict[str, Any]) -> None:
        """Write it down, each process in a file of its own."""
        if "DRAWN" in os.environ:
            with Path(os.environ["DRAWN"], str(os.getpid())).open("a") as file:
                file.write(json.dumps(what) + "\n")


class SelfSeeded(Ranked):
    """As those of public models: it knows of no rank, and seeds the generator that all share."""

    def setup(self, bottom: Any, top: Any) -> None:
        """Seed it."""
        random.seed(1337)
        np.random.seed(1337)
        self.begin(top)

    def draw(self) -> list[int]:
        """Half by each generator."""
        half = BATCH // 2
        by_numpy = [int(record) for record in np.random.randint(RECORDS, size=half)]
        return [*(random.randrange(RECORDS) for _ in range(half)), *by_numpy]


def _variable(name: str) -> int:
    return int(os.environ[f"GOSSIP_CAFFE_{name}"])
