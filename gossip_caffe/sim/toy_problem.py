"""A small real problem without a file: points around ten centres, which a softmax regression classifies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.loader import Skipped
from gossip_caffe.job.spec.spec import DataSpec, JobSettings, JobSpec, RateSchedule, SourceSpec, TopSpec
from gossip_caffe.solver.engines.numpy_engine import CLASSES

FEATURES = 12
BATCH = 8
JOB = "simulated"
_SOLVER = 'base_lr: {rate}\nlr_policy: "fixed"\nmomentum: 0.9\nmax_iter: {iterations}\n'
_RATE = 0.02


class Points:
    """The records: shape (records, FEATURES), float32, and their labels. It replaces ``OpenSources``, from memory."""

    def __init__(self, records: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        centres = rng.normal(0.0, 1.0, (CLASSES, FEATURES))
        self.labels = rng.integers(0, CLASSES, records)
        self.points = (centres[self.labels] + rng.normal(0.0, 0.7, (records, FEATURES))).astype(np.float32)

    def fill(
        self, parts: list[list[int]], arrays: list[NDArray[np.float32]], skipped: Skipped | None = None
    ) -> int:
        """Load the records of ``parts`` into a slot's arrays. Returns their number."""
        del skipped
        row = 0
        for _, start, stop in parts:
            rows = slice(row, row + stop - start)
            arrays[0][rows] = self.points[start:stop]
            arrays[1][rows] = self.labels[start:stop]
            row += stop - start
        return row

    def close(self) -> None:
        """Does nothing: no file is open."""

    def accuracy(self, weights: NDArray[np.float32]) -> float:
        """The share of all records that the weights, in the engine's layout, classify correctly."""
        matrix, bias = weights[:-CLASSES].reshape(CLASSES, FEATURES), weights[-CLASSES:]
        return float(np.mean((self.points @ matrix.T + bias).argmax(axis=1) == self.labels))


def problem_job(
    *, records: int, chunk_records: int, iterations: int, seed: int, settings: JobSettings
) -> JobSpec:
    """The job that trains on these points for ``iterations`` batches of BATCH records."""
    tops = (TopSpec("data", (FEATURES,)), TopSpec("label", ()))
    return JobSpec(
        name=JOB,
        solver_text=_SOLVER.format(rate=_RATE, iterations=iterations),
        train_net_text="",
        solver_for_peer="",
        tests=(),
        solver_type="SGD",
        iter_size=1,
        budget_samples=iterations * BATCH,
        data=DataSpec(
            sources=(SourceSpec("data", "simulated", f"seed {seed}", tops, records),),
            records=records,
            chunk_records=chunk_records,
            batch_records=BATCH,
        ),
        schedule=RateSchedule("fixed", base_lr=_RATE, max_iter=iterations),
        settings=settings,
    )
