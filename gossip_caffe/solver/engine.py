"""What the solver process needs of the thing that trains: Caffe, or a small stand-in for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.job.spec import JobSpec, SourceSpec
from gossip_caffe.solver.device import CPU
from gossip_caffe.solver.layout import WeightLayout


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine is built from. ``solver_text``: a self-contained prototxt whose data layers read the ring.

    ``seed`` is the job's: fresh weights are alike wherever they are drawn. ``noise_seed`` is the peer's own, for
    what is drawn in training (dropout, layers that make noise), so that no two peers draw the same. Plain Caffe draws
    ``seeds_drawn`` numbers for its data layers before it draws the weights. ``weights`` and ``state``: files of
    Caffe's that the job's founder starts from. ``device``: where this peer computes (device.py); peers of one job may
    differ in it.
    """

    engine: str
    solver_text: str
    iter_size: int
    batch_records: int
    seed: int
    device: str = CPU
    noise_seed: int = 0
    seeds_drawn: int = 0
    weights: tuple[str, ...] = ()
    state: str = ""


class SolverEngine(Protocol):
    """One solver. Flat vectors have shape (layout.size,), float32; a correction (layout.exchanged,)."""

    layout: WeightLayout

    def read_weights(self, out: NDArray[np.float32]) -> None:
        """Copy the weights out."""
        ...

    def write_weights(self, weights: NDArray[np.float32]) -> None:
        """Replace the weights."""
        ...

    def add_to_weights(self, correction: NDArray[np.float32]) -> None:
        """Add to the weights."""
        ...

    def lend(self, memory: NDArray[np.uint8]) -> None:
        """Memory in which the vectors of ``read_weights`` and ``add_to_weights`` will lie, for as long as it lives."""
        ...

    def load_first_weights(self) -> None:
        """Take what the job starts from, when its spec names files. Only the founder does."""
        ...

    def history(self) -> list[NDArray[np.float32]]:
        """The solver's own memory (momentum), as views and in Caffe's order; empty where it cannot be had."""
        ...

    def load_history(self, path: str) -> None:
        """Take momentum, and no weights, from a .solverstate. Raises ModelError when it is none."""
        ...

    def draw_noise_from(self, seed: int) -> None:
        """Begin a new stream of random numbers, for everything that is drawn from here on; ``seed``: 0 to 2³¹ − 1."""
        ...

    def step(self, ring: BatchRing, batches: int, learning_rate: float) -> float:
        """One iteration on the next ``batches`` batches of the ring, which are there; returns its loss.

        ``batches`` is the job's iter_size, or less when what is left of the data does not fill an iteration.
        """
        ...


def engine_spec(job: JobSpec, engine: str, noise_seed: int = 0, device: str = CPU) -> EngineSpec:
    """What an engine of a job's peer is built from."""
    return EngineSpec(
        engine=engine,
        solver_text=job.solver_for_peer,
        iter_size=job.iter_size,
        batch_records=job.data.batch_records,
        seed=job.settings.seed,
        device=device,
        noise_seed=noise_seed,
        seeds_drawn=sum(map(_seeds_drawn, job.data.sources)),
        weights=tuple(file.path for file in job.start.weights),
        state=job.start.state.path,
    )


def _seeds_drawn(source: SourceSpec) -> int:
    """Seeds that Caffe's own layer would draw: one for each of its threads, two for a random transformation.

    As InternalThread::StartInternalThread and DataTransformer::InitRand do, which base_data_layer.cpp calls twice; a
    Data layer has a thread more, which reads.
    """
    threads = {"lmdb": 2, "leveldb": 2, "images": 1}.get(source.kind, 0)
    at_random = source.transform.mirror or source.transform.crop_size > 0
    return threads + 2 * (threads > 0 and at_random)
