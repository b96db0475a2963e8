"""``gossip-caffe train`` as a user of ``caffe train`` runs it: in a folder, with a solver file, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gossip_caffe.errors import ExitCode
from gossip_caffe.wire import caffe_wire_pb2 as wire
from tests.cluster_run import ClusterRun, cluster_run, one_line, wait_for
from tests.tiny_job import TinyJob, write_job

pytestmark = pytest.mark.needs("caffe", "etcd")

_PLAIN_CAFFE = """
import sys
import caffe

caffe.set_mode_cpu()
net = caffe.Net(sys.argv[1], sys.argv[2], caffe.TEST)
print(sum(float(net.forward()["accuracy"]) for _ in range(4)) / 4)
"""


_SOLVE = """
import sys
import caffe

caffe.set_mode_cpu()
caffe.get_solver(sys.argv[1]).solve()
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ClusterRun]:
    with cluster_run(tmp_path / "state") as made:
        yield made


@pytest.fixture
def job(tmp_path: Path) -> TinyJob:
    return write_job(tmp_path / "job", iterations=3000)


def change(job: TinyJob, old: str, new: str) -> None:
    text = job.solver.read_text()
    assert old in text
    job.solver.write_text(text.replace(old, new))


def plain_accuracy(job: TinyJob, model: Path) -> float:
    """What plain Caffe makes of the weights on the test data; chance is 0.1."""
    done = subprocess.run(
        [sys.executable, "-c", _PLAIN_CAFFE, str(job.net), str(model)],
        env={**os.environ, "GLOG_minloglevel": "2"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return float(done.stdout)


def assert_nothing_is_left(run: ClusterRun, job: TinyJob, *models: str) -> None:
    """No process, no folder of the cluster, and in the user's folder nothing but the models and their states."""
    run.assert_nothing_is_left()
    assert list((run.folder / "clusters").iterdir()) == []
    before = {"solver.prototxt", "net.prototxt", "train", "test"}
    states = {model.replace(".caffemodel", ".solverstate") for model in models}
    assert {path.name for path in job.folder.iterdir()} - before == {*models, *states}


@pytest.mark.parametrize("peers", [1, 2])
def test_the_model_lies_where_caffe_would_leave_it_and_a_second_run_replaces_it(
    run: ClusterRun, job: TinyJob, peers: int
) -> None:
    model = job.folder / "tiny_iter_3000.caffemodel"
    for again in (False, True):
        if again:
            model.write_bytes(b"of an earlier run")
        done = run.run("train", "solver.prototxt", "--peers", str(peers), cwd=job.folder)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1].startswith("trained: tiny_iter_3000.caffemodel; next: ")
        assert plain_accuracy(job, model) > 0.9
        assert_nothing_is_left(run, job, model.name)


def test_snapshots_on_the_way_and_the_last_test_are_in_the_json(run: ClusterRun, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", iterations=2400, pace_ms=8)
    change(job, "test_interval: 1000000", "test_interval: 800\nsnapshot: 800")
    done = run.run("train", "solver.prototxt", "--peers", "2", "--json", cwd=job.folder)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["finished"]
    assert told["iterations"] == 2400
    assert told["model"] == "tiny_iter_2400.caffemodel"
    wanted = [f"tiny_iter_{iteration}.caffemodel" for iteration in (800, 1600, 2400)]
    assert told["snapshots"] == wanted
    assert told["state"] == "tiny_iter_2400.solverstate"
    assert told["tested"]["iteration"] == 2400
    assert told["tested"]["outputs"][0]["name"] == "accuracy"
    assert told["tested"]["outputs"][0]["means"][0] > 0.9
    assert "samples/s" in done.stderr
    assert plain_accuracy(job, job.folder / wanted[0]) > 0.9
    assert_nothing_is_left(run, job, *wanted)


def test_ctrl_c_writes_the_newest_weights_and_leaves_nothing_else(run: ClusterRun, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", iterations=1_000_000, pace_ms=5)
    process = run.start("train", "solver.prototxt", "--peers", "2", cwd=job.folder)
    log = run.folder / "up.log"
    wait_for("it trains", lambda: "samples/s, loss" in log.read_text())
    process.send_signal(signal.SIGINT)
    wait_for("it has ended", lambda: process.poll() is not None, 30.0)
    assert process.returncode == ExitCode.INTERRUPTED, log.read_text()
    (model,) = job.folder.glob("*.caffemodel")
    last = log.read_text().splitlines()[-1]
    assert f"of 1,000,000: {model.name}" in last
    assert plain_accuracy(job, model) > 0.5
    assert_nothing_is_left(run, job, model.name)


def test_a_killed_train_leaves_no_process(run: ClusterRun, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", iterations=1_000_000, pace_ms=5)
    process = run.start("train", "solver.prototxt", cwd=job.folder)
    wait_for("it trains", lambda: "samples/s, loss" in (run.folder / "up.log").read_text())
    process.kill()
    process.wait()
    run.assert_nothing_is_left()


def test_without_snapshot_after_train_nothing_is_written(run: ClusterRun, job: TinyJob) -> None:
    change(job, 'snapshot_prefix: "tiny"', "snapshot_after_train: false")
    done = run.run("train", "solver.prototxt", cwd=job.folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("trained: no model is written, as the solver says")
    assert_nothing_is_left(run, job)


def test_a_prefix_in_a_folder_that_is_not_there_is_one_line(run: ClusterRun, job: TinyJob) -> None:
    change(job, '"tiny"', '"out/tiny"')
    done = run.run("train", "solver.prototxt", cwd=job.folder)
    assert done.returncode == ExitCode.ENVIRONMENT
    wanted = "gossip-caffe: snapshot_prefix 'out/tiny': there is no folder out; make it with 'mkdir -p out'"
    assert one_line(done) == wanted


def test_a_wrong_solver_is_one_line_and_starts_nothing(run: ClusterRun, job: TinyJob) -> None:
    change(job, 'lr_policy: "inv"', 'lr_policy: "none"')
    done = run.run("train", "solver.prototxt", cwd=job.folder)
    assert done.returncode == ExitCode.USAGE
    assert one_line(done).startswith("gossip-caffe: solver.prototxt:")
    run.assert_nothing_is_left()


def test_one_peer_leaves_plain_caffes_weights_bit_for_bit(run: ClusterRun, job: TinyJob) -> None:
    plain = job.folder / "plain"
    plain.mkdir()
    subprocess.run(
        [sys.executable, "-c", _SOLVE, str(job.solver)],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        cwd=plain,
        timeout=120,
        check=True,
        capture_output=True,
    )
    done = run.run("train", "solver.prototxt", cwd=job.folder)
    assert done.returncode == 0, done.stderr
    ours, theirs = (blobs_of(folder / "tiny_iter_3000.caffemodel") for folder in (job.folder, plain))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[blob], theirs[blob]) for blob in theirs)


def blobs_of(model: Path) -> dict[tuple[str, int], NDArray[np.float32]]:
    net = wire.NetParameter.FromString(model.read_bytes())
    return {
        (layer.name, index): np.array(blob.data, np.float32)
        for layer in net.layer
        for index, blob in enumerate(layer.blobs)
    }
