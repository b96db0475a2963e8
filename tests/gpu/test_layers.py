"""Forward and backward on a GPU against the CPU: every layer of the nets in tests/nets, within float32's tolerance."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import caffe
import numpy as np
import pytest
from numpy.typing import NDArray

from gossip_caffe.data.ring import BatchRing
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.solver.engines.engine import engine_spec
from gossip_caffe.solver.engines.pycaffe_engine import PycaffeEngine
from gossip_caffe.solver.gpu.device import gpu_device
from gossip_caffe.solver.gpu.gpus import Gpu
from tests.integration.test_net_kinds import KINDS, Kind, job_of

Values = dict[str, NDArray[np.float32]]

DETERMINISTIC = [kind for kind in KINDS if kind.net not in {"noise", "inception"}]
"""Dropout and generated noise draw other numbers on a GPU."""
RELATIVE, OF_THE_LARGEST = 2e-3, 2e-4
"""Sums of some thousand products, in another order: parts of each value, and of the largest of its blob."""


@dataclass
class Pass:
    """All values of a net after one iteration: its blobs, and what the iteration made of the weights."""

    blobs: Values
    weights: NDArray[np.float32]
    loss: float


@pytest.fixture(autouse=True)
def back_to_the_cpu() -> Iterator[None]:
    yield
    caffe.set_mode_cpu()


def filled(job: JobSpec) -> BatchRing:
    """A ring with as many batches as an iteration takes, the same each time."""
    ring = BatchRing.create(job.data.tops, job.data.batch_records, job.iter_size)
    rng = np.random.default_rng(11)
    for sequence in range(job.iter_size):
        for array in ring.reserve(0.0) or ():
            array[...] = rng.random(array.shape) if array.ndim > 1 else rng.integers(0, 2, array.shape)
        ring.commit(sequence, ring.batch_records)
    return ring


def one_iteration(job: JobSpec, device: str, weights: NDArray[np.float32] | None) -> tuple[Pass, Any]:
    ring = filled(job)
    engine = PycaffeEngine(replace(engine_spec(job, "pycaffe"), device=device), ring)
    if weights is not None:
        engine.write_weights(weights)
    start = np.empty(engine.layout.size, dtype=np.float32)
    engine.read_weights(start)
    loss = engine.step(ring, job.iter_size, 0.01)
    after = np.empty_like(start)
    engine.read_weights(after)
    net = engine._solver.net
    blobs = {f"{name}": np.array(blob.data) for name, blob in net.blobs.items()}
    blobs |= {f"gradient of {name}": np.array(blob.diff) for name, blob in net.blobs.items()}
    return Pass(blobs, after - start, loss), start


@pytest.mark.parametrize("kind", DETERMINISTIC, ids=[kind.net for kind in DETERMINISTIC])
def test_a_net_computes_on_a_gpu_what_it_computes_on_the_cpu(tmp_path: Path, gpu: Gpu, kind: Kind) -> None:
    kind.write_data(tmp_path)
    sys.path.insert(0, str(tmp_path))  # for layers of the user's own
    try:
        job = job_of(tmp_path, kind.net)
        here, start = one_iteration(job, "cpu", None)
        there, _ = one_iteration(job, gpu_device(gpu.index), start)
    finally:
        sys.path.remove(str(tmp_path))
    assert there.loss == pytest.approx(here.loss, rel=RELATIVE)
    assert here.blobs.keys() == there.blobs.keys()
    for name, values in {**here.blobs, "the step": here.weights}.items():
        others = there.blobs.get(name, there.weights)
        largest = float(np.abs(values).max(initial=0.0))
        np.testing.assert_allclose(others, values, RELATIVE, OF_THE_LARGEST * largest, err_msg=name)
