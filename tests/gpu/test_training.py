"""Nets that people train, on a GPU: the loss falls, momentum survives a checkpoint, and CPU peers help."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gossip_caffe.data.sources.source import measure
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings, JobSpec
from gossip_caffe.solver.engines.engine import engine_spec
from gossip_caffe.solver.engines.pycaffe_engine import PycaffeEngine, compute_on
from gossip_caffe.solver.gpu.device import gpu_device
from gossip_caffe.solver.gpu.gpus import Gpu
from tests import tiny_job
from tests.cluster_run import ClusterRun, cluster_run
from tests.integration.test_caffes_own_tests import KNOWN_FAILURES, NUMBER, RUNNER
from tests.integration.test_net_kinds import KINDS, WATCHED, Kind, job_of
from tests.one_peer import OnePeer, trained

ROOT = Path(__file__).parents[2]
ON_A_GPU = [kind for kind in KINDS if kind.net in {"lenet", "cifar_quick", "inception"}]
MOST_POINTS_LESS = 1.0


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ClusterRun]:
    with cluster_run(tmp_path / "state") as made:
        yield made


def test_caffes_own_python_tests_pass_in_gpu_mode(gpu: Gpu) -> None:
    done = subprocess.run(
        [sys.executable, str(RUNNER), "--gpu", str(gpu.index)],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    kind, _, found = done.stdout.strip().rpartition("\n")[2].partition(" ")
    assert kind == "RESULT", done.stderr
    result = json.loads(found)
    assert result["failed"] == sorted(KNOWN_FAILURES), done.stderr
    assert (result["run"], result["skipped"]) == (NUMBER, 0)


@pytest.mark.parametrize("kind", ON_A_GPU, ids=[kind.net for kind in ON_A_GPU])
async def test_a_net_of_this_kind_trains_on_a_gpu(tmp_path: Path, gpu: Gpu, kind: Kind) -> None:
    kind.write_data(tmp_path)
    run = await trained(
        job_of(tmp_path, kind.net), kind.iterations, watched=WATCHED, device=gpu_device(gpu.index)
    )
    assert np.isfinite(run.weights).all()
    assert np.mean(run.losses[-WATCHED:]) < kind.falls_to * np.mean(run.losses[:WATCHED]), run.losses


def alexnet_job(folder: Path, batch: int, records: int) -> JobSpec:
    """The net of benchmarks/gpu.py, on noise."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from _alexnet import alexnet  # noqa: PLC0415
        from _models import write_solver  # noqa: PLC0415
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    solver = write_solver(alexnet(batch, records=records), folder, max_iter=1000)
    return read_job("alexnet", solver, JobSettings(), measure)


async def test_a_net_of_the_size_of_alexnet_trains_on_a_gpu(tmp_path: Path, gpu: Gpu) -> None:
    peer = OnePeer(alexnet_job(tmp_path, batch=32, records=64), device=gpu_device(gpu.index))
    try:
        await peer.start()
        assert peer.layout.size == 60_965_224
        first = await peer.train(1)
        last = await peer.train(60)  # two batches of noise, learned by heart
        assert last < first
        await peer.stop()
        assert np.isfinite(peer.weights()).all()
    finally:
        await peer.stop()
        peer.ring.close()


def test_momentum_of_a_gpu_is_read_and_restored(tmp_path: Path, gpu: Gpu) -> None:
    ON_A_GPU[0].write_data(tmp_path)
    job = job_of(tmp_path, ON_A_GPU[0].net)
    from gossip_caffe.data.ring import BatchRing  # noqa: PLC0415

    ring = BatchRing.create(job.data.tops, job.data.batch_records, 1)
    engine = PycaffeEngine(replace(engine_spec(job, "pycaffe"), device=gpu_device(gpu.index)), ring)

    def step(rate: float) -> None:
        for array in ring.reserve(0.0) or ():
            array[...] = 0.5 if array.ndim > 1 else 1
        ring.commit(ring.head, ring.batch_records)
        engine.step(ring, 1, rate)

    try:
        step(0.01)
        kept = [blob.copy() for blob in engine.history()]
        assert any(blob.any() for blob in kept)
        for blob in engine.history():
            blob[...] = 0
        assert not any(blob.any() for blob in engine.history())
        step(0.0)  # the GPU takes over what was written: no momentum is left to carry on
        assert not any(blob.any() for blob in engine.history())
        for blob, was in zip(engine.history(), kept, strict=True):
            blob[...] = was
        step(0.0)
        assert any(blob.any() for blob in engine.history())
    finally:
        compute_on(None)


def accuracy(run: ClusterRun, job: tiny_job.TinyJob, *words: str) -> float:
    """Percent of the test data, by the consensus at the end of the job."""
    done = run.run("train", str(job.solver), "--json", *words, cwd=job.folder)
    assert done.returncode == 0, done.stderr
    outputs = {output["name"]: output["means"] for output in json.loads(done.stdout)["tested"]["outputs"]}
    return 100.0 * float(outputs["accuracy"][0])


def test_four_peers_on_one_gpu_beside_four_on_the_cpu_learn_what_a_single_solver_learns(
    run: ClusterRun, tmp_path: Path, gpu: Gpu
) -> None:
    job = tiny_job.write_job(tmp_path / "job", records=4_000, iterations=20_000)
    text = job.solver.read_text().replace("test_interval: 1000000", "test_interval: 20000")
    job.solver.write_text(text)
    single = accuracy(run, job)
    gpus = ",".join([str(gpu.index)] * 4)
    together = accuracy(run, job, "--peers", "8", "--gpus", gpus)
    assert together > single - MOST_POINTS_LESS
