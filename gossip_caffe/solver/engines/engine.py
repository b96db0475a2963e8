"""The interface between the solver process and its engine: Caffe, or a small NumPy engine for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.job.prototxts.prototxt import Document
from gossip_caffe.job.spec.spec import ANNOTATED, JobSpec, NetTest, SourceSpec
from gossip_caffe.solver.engines.layout import WeightLayout
from gossip_caffe.solver.engines.place import ALONE, LayerRank
from gossip_caffe.solver.gpu.device import CPU


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """The description from which an engine is built.

    - ``engine``: "pycaffe" or "numpy". ``solver_text``: a self-contained prototxt whose data layers read the ring.
    - ``seed``: the job's seed, so that fresh weights are the same on every machine. ``noise_seed``: the peer's own
      seed for random numbers in training (dropout, layers that make noise), so that no two peers draw the same.
    - ``seeds_drawn``: the numbers that plain Caffe draws for its data layers before it draws the weights. ``tests``:
      the nets for which plain Caffe draws numbers after the weights; empty if the solver has no random_seed.
    - ``sources``: the source layers of the user's net, each as a text; they replace the ring's layers in a
      .caffemodel.
    - ``display``, ``average_loss``, ``debug_info``: as in Caffe; they do not change the weights.
    - ``weights``, ``state``: files of Caffe from which the job's first peer starts.
    - ``device``: the CPU or a GPU (device.py); peers of one job may differ in it.
    - ``place``: the rank that the net's own Python layers get.
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
    tests: tuple[NetTest, ...] = ()
    sources: tuple[str, ...] = ()
    display: int = 0
    average_loss: int = 1
    debug_info: bool = False
    place: LayerRank = ALONE


@dataclass(frozen=True, slots=True)
class NetOutput:
    """One output of the net that trains. ``values``: shape (count,), float32; ``loss_weight``: 0 if it is no loss."""

    name: str
    values: NDArray[np.float32]
    loss_weight: float


class SolverEngine(Protocol):
    """One solver. Flat vectors have shape (layout.size,), float32; a correction has shape (layout.exchanged,)."""

    layout: WeightLayout

    def read_weights(self, out: NDArray[np.float32]) -> None:
        """Copy the weights to ``out``."""
        ...

    def write_weights(self, weights: NDArray[np.float32]) -> None:
        """Replace the weights by ``weights``."""
        ...

    def add_to_weights(self, correction: NDArray[np.float32]) -> None:
        """Add ``correction`` to the exchanged weights."""
        ...

    def lend(self, memory: NDArray[np.uint8]) -> None:
        """Announce the memory in which all vectors of ``read_weights`` and ``add_to_weights`` lie, until the end."""
        ...

    def load_first_weights(self) -> None:
        """Load the files from which the job starts, if its spec names any. Only the job's first peer calls this."""
        ...

    def history(self) -> list[NDArray[np.float32]]:
        """Return the solver's history (momentum) as views, in Caffe's order; empty if this engine cannot read it."""
        ...

    def load_history(self, path: str) -> None:
        """Load the momentum, not the weights, of a .solverstate file. Raises ModelError when the file is not one."""
        ...

    def draw_noise_from(self, seed: int) -> None:
        """Seed the random numbers that training draws from now on; ``seed``: 0 to 2³¹ − 1."""
        ...

    def skip(self, passes: int) -> None:
        """Skip the data of ``passes`` passes, if the net makes its own data and its layers can skip.

        Raises ModelError when a layer fails.
        """
        ...

    @property
    def gradient_length(self) -> float:
        """The length of the last step's gradient before it was clipped; 0.0 where no limit was set."""
        ...

    def clip_gradients(self, limit: float) -> None:
        """Shorten gradients from now on to the length ``limit``, before the solver's own clip_gradients is applied.

        The length is that of Caffe's clip_gradients: L2 over all parameters, of the sum over the passes of an
        iteration. ``limit``: 0.0 for no limit, inf to measure ``gradient_length`` only.
        """
        ...

    def outputs(self) -> list[NetOutput]:
        """Return the outputs of the last forward pass, in Caffe's order."""
        ...

    def step(self, ring: BatchRing, batches: int, learning_rate: float) -> float:
        """Train one iteration on the next ``batches`` batches, which are in the ring already. Returns its loss.

        ``batches``: the job's iter_size, or less when the rest of the data does not fill an iteration.
        """
        ...


def engine_spec(job: JobSpec, engine: str, noise_seed: int = 0, device: str = CPU) -> EngineSpec:
    """Make the description of the engine for a peer of ``job``."""
    solver = Document(job.solver_text, "solver").root
    is_seeded = solver.integer("random_seed", -1) >= 0
    return EngineSpec(
        engine=engine,
        solver_text=job.solver_for_peer,
        iter_size=job.iter_size,
        batch_records=job.data.batch_records,
        seed=job.settings.seed,
        device=device,
        noise_seed=noise_seed,
        seeds_drawn=sum(seeds_drawn(source) for source in job.data.sources),
        weights=tuple(file.path for file in job.start.weights),
        state=job.start.state.path,
        tests=job.tests if is_seeded else (),
        sources=job.source_texts,
        display=max(0, solver.integer("display")),
        average_loss=max(1, solver.integer("average_loss", 1)),
        debug_info=solver.boolean("debug_info"),
    )


def seeds_drawn(source: SourceSpec, *, testing: bool = False) -> int:
    """Return the number of seeds that Caffe's own layer draws: one for each thread, two for a random transformation.

    See InternalThread::StartInternalThread and DataTransformer::InitRand, which base_data_layer.cpp calls twice. A Data
    or AnnotatedData layer has one more thread, for reading. With ``testing`` a crop is not random.
    """
    databases = ("lmdb", "leveldb", *ANNOTATED.values())
    threads = 2 if source.kind in databases else int(source.kind == "images")
    at_random = source.transform.mirror or (source.transform.crop_size > 0 and not testing)
    return threads + 2 * (threads > 0 and at_random)
