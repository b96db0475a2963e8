"""Peers on GPUs that are not there (tests/fake_gpu): everything but the kernels is the product's own."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import caffe
import numpy as np
import pytest
from caffe import _gossip

from gossip_caffe.errors import EnvironmentProblem, ExitCode
from gossip_caffe.solver.engines.blob_access import HostBlobs
from gossip_caffe.solver.engines.device_blobs import DeviceBlobs
from gossip_caffe.solver.engines.pycaffe_engine import PycaffeEngine
from gossip_caffe.solver.history import SolverHistory, write_history
from tests import tiny_job
from tests.caffe_jobs import MOMENTUM, write_job
from tests.cluster_run import ClusterRun, one_line, wait_for
from tests.fake_cupy import make_cupy
from tests.tiny_job import TinyJob

pytestmark = pytest.mark.integration

FAKES = Path(__file__).parents[1] / "fake_gpu"
SGD = f'base_lr: 0.05 {MOMENTUM} lr_policy: "fixed"'


@dataclass
class WithGpus(ClusterRun):
    """Commands on a machine with ``gpus`` fake GPUs, of which a solver dies for the reason ``abort``."""

    gpus: int = 2
    abort: str = ""

    @property
    def environment(self) -> dict[str, str]:
        real = super().environment
        path = os.pathsep.join([str(FAKES), real["PYTHONPATH"]])
        return {**real, "PYTHONPATH": path, "FAKE_GPUS": str(self.gpus), "FAKE_GPUS_ABORT": self.abort}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[WithGpus]:
    made = WithGpus(tmp_path / "state")
    yield made
    made.assert_nothing_is_left()


@pytest.fixture
def job(tmp_path: Path) -> TinyJob:
    return tiny_job.write_job(tmp_path / "job", records=512, iterations=1_000_000)


def test_cpu_and_gpu_peers_train_one_job_and_each_says_where_it_is(run: WithGpus, job: TinyJob) -> None:
    run.start("cluster", "up", "--solver", str(job.solver), "--peers", "3", "--gpus", "1,1", "--unchecked")
    names = ("p0", "p1", "p2")

    def all_exchange() -> dict[str, dict[str, Any]]:
        found = run.training()
        return found if len([peer for peer in found.values() if peer["exchanges_applied"]]) == 3 else {}

    met = wait_for("all three train and exchange", all_exchange)
    assert [met[name]["device"] for name in names] == ["gpu:1", "gpu:1", "cpu"]
    on_gpu = {"device_name": "Fake 1", "device_memory_bytes": 80 * 2**30, "device_used_bytes": 3 * 2**30}
    assert on_gpu.items() <= met["p0"].items()
    assert run.run("cluster", "down").returncode == 0
    logs = {name: (run.folder / "clusters/local/logs" / f"{name}.log").read_text() for name in names}
    for name in ("p0", "p1"):
        assert f"{name}: trains on GPU 1 (Fake 1, 71.0 of 80.0 GiB free)" in logs[name]
        assert "slower than they could be" not in logs[name]
    assert "GPU" not in logs["p2"]


def test_a_gpu_is_tried_before_anybody_hears_of_the_peer(run: WithGpus, job: TinyJob) -> None:
    run.abort = "out of memory"
    done = run.run("train", str(job.solver), "--gpu", "0", "--unchecked")
    assert done.returncode == ExitCode.ENVIRONMENT
    line = one_line(done)
    assert "GPU 0 (Fake 0, 70.0 of 80.0 GiB free) has too little memory for this net: out of memory" in line
    assert "use a smaller batch_size, another GPU, or fewer peers on this one" in line


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (
            ("--gpus", "0,7"),
            ExitCode.ENVIRONMENT,
            "there is no GPU 7 on this machine: there are 2, .*; give one",
        ),
        (("--gpu", "one"), ExitCode.USAGE, "--gpu one: 'one' is not the number of a GPU; give one number"),
        (
            ("--gpus", "0,1", "--peers", "1"),
            ExitCode.USAGE,
            "names a GPU for each of 2 peers, .*; name fewer",
        ),
    ],
)
def test_wrong_gpus_are_refused_before_anything_is_started(
    run: WithGpus, job: TinyJob, words: tuple[str, ...], code: ExitCode, says: str
) -> None:
    done = run.run("train", str(job.solver), *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert re.search(says, one_line(done))


def test_the_doctor_tells_of_every_gpu_and_of_what_makes_them_quick(run: WithGpus) -> None:
    found = {entry["found"]: entry for entry in json.loads(run.run("doctor", "--json").stdout)}
    assert found["GPU 1 (Fake 1, 71.0 of 80.0 GiB free)"]["good"]
    assert found["quick snapshots on a GPU"]["good"]
    assert found["a GPU's memory in the status"]["good"]


def test_without_cuda_in_pycaffe_the_way_to_it_is_told(tmp_path: Path, job: TinyJob) -> None:
    if _gossip.__dict__.get("built_for_cuda", False):
        pytest.skip("the pycaffe here has CUDA")
    run = ClusterRun(tmp_path / "state")
    done = run.run("train", str(job.solver), "--gpus", "0")
    assert done.returncode == ExitCode.ENVIRONMENT
    assert re.search(r"was built for the CPU only; .*make setup CUDA=1", one_line(done))
    entries = json.loads(run.run("doctor", "--json").stdout)
    (gpu,) = [entry for entry in entries if entry["what"] == "GPU"]
    assert not gpu["good"]
    assert not gpu["needed"]


# ── the engine ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> int:
    """Two GPUs in this process."""
    for owner, name, value in (
        (caffe, "set_device", lambda index: None),
        (caffe, "set_mode_gpu", caffe.set_mode_cpu),
        (_gossip, "built_for_cuda", True),
        (_gossip, "missing_libraries", dict),
        (_gossip, "device_count", lambda: 2),
        (_gossip, "gpu_data_ptr", lambda blob: blob.data.ctypes.data),
    ):
        monkeypatch.setattr(owner, name, value, raising=False)
    _gossip.set_log_level(2)
    return 2


def trained(engine: PycaffeEngine, job: Any, ring: Any) -> list[bytes]:
    """Ten steps with a correction after each; all snapshots."""
    rng, seen = np.random.default_rng(3), []
    for _ in range(10):
        job.feed(ring, 1)
        engine.step(ring, 1, 0.05)
        engine.add_to_weights(rng.normal(0, 0.01, engine.layout.exchanged).astype(np.float32))
        out = np.empty(engine.layout.size, dtype=np.float32)
        engine.read_weights(out)
        seen.append(out.tobytes())
    return seen


@pytest.mark.parametrize("cupy", ["with CuPy", "without CuPy"])
def test_an_engine_on_a_gpu_takes_the_same_snapshots_and_corrections_as_one_on_the_cpu(
    tmp_path: Path, gpus: int, cupy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", make_cupy()[0] if cupy == "with CuPy" else None)
    job = write_job(tmp_path, SGD)
    results = []
    for device in ("cpu", "gpu:1"):
        ring = job.ring()
        engine = PycaffeEngine(replace(job.engine_spec(), device=device), ring)
        results.append(trained(engine, job, ring))
    assert results[0] == results[1]
    assert isinstance(engine._values, DeviceBlobs if cupy == "with CuPy" else HostBlobs)
    assert ("CuPy is not used" in engine.remark) == (cupy == "without CuPy")


def test_momentum_goes_into_a_checkpoint_and_back_on_a_gpu(
    tmp_path: Path, gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", make_cupy()[0])
    job = write_job(tmp_path, SGD)
    ring = job.ring()
    engine = PycaffeEngine(replace(job.engine_spec(), device="gpu:0"), ring)
    trained(engine, job, ring)
    fd = os.memfd_create("history")
    shapes = write_history(engine.history(), os.dup(fd))
    kept = SolverHistory(fd, shapes, 10)
    assert any(blob.any() for blob in kept.blobs)
    again = engine.history()  # what it was before that step is of no use after it
    for now, then in zip(again, kept.blobs, strict=True):
        np.testing.assert_array_equal(now, then)
    kept.close()


@pytest.mark.parametrize(
    ("device", "reason", "says"),
    [
        ("gpu:7", "", "there is no GPU 7 on this machine: there are 2"),
        ("gpu:0", "no CUDA-capable device is detected", "CUDA finds no GPU .*: no CUDA-capable device"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused_before_caffe_could_abort(
    tmp_path: Path, gpus: int, device: str, reason: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count() -> int:
        if reason:
            raise RuntimeError(reason)
        return gpus

    monkeypatch.setattr(_gossip, "device_count", count)
    job = write_job(tmp_path, SGD)
    with pytest.raises(EnvironmentProblem, match=says):
        PycaffeEngine(replace(job.engine_spec(), device=device), job.ring())
