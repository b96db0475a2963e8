"""What a job's solver says about snapshots: where they go, how often, and whether the last is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.job.prototxt import Document
from gossip_caffe.job.spec import JobSpec


@dataclass(frozen=True, slots=True)
class PlannedSnapshots:
    """When plain Caffe would write its snapshots, and where.

    ``prefix``: the beginning of their names, relative to the working folder as for Caffe. ``every_iterations``: 0 for
    none on the way. ``after_train``: whether there is one of the result. ``hdf5``: Caffe would write HDF5 files.
    """

    prefix: str
    every_iterations: int
    after_train: bool
    max_iter: int
    samples_per_iteration: int
    first_iteration: int = 0
    hdf5: bool = False

    @property
    def of_result(self) -> bool:
        """Whether the last iteration's weights are written, as Caffe's Solver::Step and Solver::Solve do it."""
        falls_on_last = self.every_iterations > 0 and self.max_iter % self.every_iterations == 0
        return self.after_train or falls_on_last

    def iteration_at(self, progress_samples: int) -> int:
        """Caffe's count of iterations after so many samples of the whole job."""
        return self.first_iteration + progress_samples // self.samples_per_iteration

    def iteration_of(self, progress_samples: int) -> int:
        """The newest iteration that a snapshot is due for by then; 0 before the first of the job."""
        if not self.every_iterations:
            return 0
        newest = self.iteration_at(progress_samples) // self.every_iterations * self.every_iterations
        return newest if newest > self.first_iteration else 0

    def model(self, iteration: int) -> Path:
        """The file of an iteration's weights: Solver::SnapshotFilename."""
        return Path(f"{self.prefix}_iter_{iteration}.caffemodel")


def snapshots_of(spec: JobSpec, default_prefix: str = "") -> PlannedSnapshots:
    """Snapshots of a job; ``default_prefix`` is for a solver that names none."""
    solver = Document(spec.solver_text, "solver").root
    return PlannedSnapshots(
        prefix=solver.text("snapshot_prefix") or default_prefix,
        every_iterations=max(0, solver.integer("snapshot")),
        after_train=solver.boolean("snapshot_after_train", True),
        max_iter=spec.schedule.max_iter,
        samples_per_iteration=spec.samples_per_iteration,
        first_iteration=spec.schedule.first_iteration,
        hdf5=solver.text("snapshot_format") in {"HDF5", "0"},
    )
