"""The snapshots that a job's solver asks for: their place, their interval, and whether the result is one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.job.prototxts.prototxt import Document
from gossip_caffe.job.spec.spec import JobSpec


@dataclass(frozen=True, slots=True)
class PlannedSnapshots:
    """The times and file names of the snapshots that plain Caffe would write.

    ``prefix``: the start of the file names, relative to the working folder as for Caffe. ``every_iterations``: 0 for
    no snapshots before the end. ``after_train``: one of the result is wanted. ``hdf5``: Caffe would write HDF5 files.
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
        """True if the last iteration's weights are written, by the rules of Caffe's Solver::Step and Solver::Solve."""
        falls_on_last = self.every_iterations > 0 and self.max_iter % self.every_iterations == 0
        return self.after_train or falls_on_last

    def iteration_at(self, progress_samples: int) -> int:
        """Caffe's iteration count after so many samples of the whole job."""
        return self.first_iteration + progress_samples // self.samples_per_iteration

    def iteration_of(self, progress_samples: int) -> int:
        """The newest iteration whose snapshot is due after so many samples; 0 before the job's first."""
        if not self.every_iterations:
            return 0
        newest = self.iteration_at(progress_samples) // self.every_iterations * self.every_iterations
        return newest if newest > self.first_iteration else 0

    def iterations_by(self, progress_samples: int) -> range:
        """All iterations whose snapshots are due after so many samples, except the last one of the job."""
        if not self.every_iterations:
            return range(0)
        first = self.first_iteration // self.every_iterations + 1
        last = min(self.iteration_of(progress_samples), self.max_iter - 1)
        return range(first * self.every_iterations, last + 1, self.every_iterations)

    def model(self, iteration: int) -> Path:
        """The file for an iteration's weights, named by Solver::SnapshotFilename."""
        return self._file(iteration, "caffemodel")

    def state(self, iteration: int) -> Path:
        """The file for the rest of a solver's state at an iteration."""
        return self._file(iteration, "solverstate")

    def _file(self, iteration: int, kind: str) -> Path:
        return Path(f"{self.prefix}_iter_{iteration}.{kind}{'.h5' if self.hdf5 else ''}")


def snapshots_of(spec: JobSpec, default_prefix: str = "") -> PlannedSnapshots:
    """The snapshots of a job. ``default_prefix`` is used for a solver that names none."""
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
