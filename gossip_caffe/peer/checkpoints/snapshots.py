"""Snapshots of a lone peer at exactly the solver's iterations, for the process that collects them (``train``)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.checkpoint.announce import checkpoint_id
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.manifest import Manifest
from gossip_caffe.checkpoint.solverstate import state_writer
from gossip_caffe.job.prototxts.snapshots import snapshots_of
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.solver.engines.layout import WeightLayout
from gossip_caffe.solver.history import SolverHistory

FOLDER = "snapshots"
"""A folder in the run folder; each peer has a folder of its own in it."""
LEAVING = "leaving"


class ExactSnapshots:
    """The snapshots of one peer. Each has the form of a checkpoint, and is never announced.

    The process that collects the snapshots removes them from ``folder``.
    """

    def __init__(self, spec: JobSpec, peer: str, layout: WeightLayout, folder: Path) -> None:
        self._spec = spec
        self._peer = peer
        self._layout = layout
        self._folder = CheckpointFolder(folder)
        self._folder.sweep()
        self._plan = snapshots_of(spec)
        self._written = 0

    def begin(self, samples: int) -> None:
        """Begin at the job's progress of ``samples``: snapshots that were due before are left out."""
        self._written = self._plan.iteration_of(samples)

    @property
    def next_samples(self) -> int | None:
        """Samples of the job at which the next snapshot is due; None when no further one is."""
        every = self._plan.every_iterations
        if not every:
            return None
        last = max(self._written, self._plan.first_iteration)
        iteration = (last // every + 1) * every
        if iteration > self._plan.max_iter:
            return None
        return (iteration - self._plan.first_iteration) * self._plan.samples_per_iteration

    def due(self, samples: int) -> bool:
        """Whether a snapshot is due after so many samples of the job."""
        return (at := self.next_samples) is not None and samples >= at

    async def write(
        self, samples: int, weights: NDArray[np.float32], history: SolverHistory | None, *, leaving: bool
    ) -> None:
        """Write a snapshot of ``weights``, float32 of shape (layout.size,), at the job's progress of ``samples``.

        ``leaving``: it is the last one, of a peer that leaves between two planned iterations. Raises
        EnvironmentProblem when the disk does not take it; the snapshot then counts as written, and is not tried again.
        """
        self._written = max(self._written, self._plan.iteration_of(samples))
        manifest = Manifest(
            checkpoint=checkpoint_id(samples, f"{self._peer}-{LEAVING}" if leaving else self._peer),
            job=self._spec.name,
            job_fingerprint=self._spec.fingerprint,
            layout=self._layout.entries,
            progress_samples=samples,
            folded=0,
            done=(),
            maker=self._peer,
            contributors=(self._peer,),
            made_at=0.0,
            job_identity=self._spec.identity,
            structure=self._layout.structure,
        )
        state = state_writer(self._spec, history, samples)
        await asyncio.to_thread(self._folder.write, manifest, weights, state)
