"""A disk that fills, or a folder that goes, under a training: what was learned is where the user finds it."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gossip_caffe.errors import ExitCode
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.tiny_job import TinyJob, write_job

pytestmark = pytest.mark.needs("caffe", "etcd")

FULL = "No space left on device"
ITERATIONS = 150
"""A checkpoint is due at every twentieth of them."""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ClusterRun]:
    with cluster_run(tmp_path / "state") as made:
        yield made


@pytest.fixture
def large(tmp_path: Path) -> TinyJob:
    """A model of 10 MB, of which few checkpoints fit beside an etcd on the disk of ``on_a_small_disk``."""
    return write_job(tmp_path / "job", iterations=ITERATIONS, hidden=60_000)


def on_a_small_disk(run: ClusterRun, job: TinyJob, *words: str) -> subprocess.Popen[bytes]:
    """The command, with its state on a disk of 150 MB, of which etcd takes 123: in a mount namespace of its own."""
    run.folder.mkdir(mode=0o700)
    mount = f"mount -t tmpfs -o size=150m,mode=700 none {shlex.quote(str(run.folder))}"
    if subprocess.run(
        ["unshare", "--mount", "--", "sh", "-c", mount], capture_output=True, check=False
    ).returncode:
        pytest.skip("this user may not mount a disk")
    command = ["unshare", "--mount", "--", "sh", "-c", f'{mount} && exec "$@"', "-", *run.command(*words)]
    with (job.folder / "log").open("wb") as log:
        return subprocess.Popen(command, env=run.environment, cwd=job.folder, stdout=log, stderr=log)


def said(job: TinyJob) -> str:
    return (job.folder / "log").read_text()


def test_a_training_that_no_disk_takes_ends_with_its_weights_written(run: ClusterRun, large: TinyJob) -> None:
    process = on_a_small_disk(run, large, "train", "solver.prototxt", "--peers", "2")
    wait_for("it has ended", lambda: process.poll() is not None)
    assert process.returncode == ExitCode.OK, said(large)
    lacks = "without a .solverstate to go on from: the last checkpoint cannot be written"
    assert f"trained: tiny_iter_{ITERATIONS}.caffemodel ({lacks}" in said(large)
    assert said(large).count(": cannot write checkpoint") == 1, "each kind of trouble is said once"
    assert FULL in said(large)
    assert (large.folder / f"tiny_iter_{ITERATIONS}.caffemodel").stat().st_size > 4 * 60_000 * 46


@pytest.mark.parametrize(
    "words", [("train", "solver.prototxt"), ("cluster", "up", "--solver", "solver.prototxt")]
)
def test_ctrl_c_then_throws_nothing_away(run: ClusterRun, large: TinyJob, words: tuple[str, ...]) -> None:
    large.solver.write_text(large.solver.read_text().replace(f"max_iter: {ITERATIONS}", "max_iter: 1000000"))
    process = on_a_small_disk(run, large, *words, "--peers", "1")
    wait_for("the disk is full", lambda: FULL in said(large))
    process.send_signal(signal.SIGINT)
    wait_for("it has ended", lambda: process.poll() is not None, 60.0)
    assert process.returncode == ExitCode.INTERRUPTED, said(large)
    (model,) = large.folder.glob("tiny_iter_*.caffemodel")
    assert model.name in said(large)
    assert not model.name.endswith("_iter_0.caffemodel")


def test_a_snapshot_folder_that_goes_under_way_is_made_again(run: ClusterRun, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", iterations=1000)
    job.solver.write_text(job.solver.read_text().replace('"tiny"', '"out/tiny"'))
    (job.folder / "out").mkdir()
    process = run.start("train", "solver.prototxt", "--engine", "numpy", cwd=job.folder)
    log = run.folder / "up.log"
    wait_for("it has begun", lambda: "peer starts" in log.read_text())
    shutil.rmtree(job.folder / "out")
    wait_for("it has ended", lambda: process.poll() is not None)
    assert process.returncode == ExitCode.OK, log.read_text()
    assert (job.folder / "out" / "tiny_iter_1000.caffemodel").exists()


def test_where_it_cannot_be_made_the_weights_lie_beside_the_solver(run: ClusterRun, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", iterations=1000)
    job.solver.write_text(job.solver.read_text().replace('"tiny"', '"out/tiny"'))
    (job.folder / "out").mkdir()
    process = run.start("train", str(job.solver), "--engine", "numpy", cwd=job.folder)
    log = run.folder / "up.log"
    wait_for("it has begun", lambda: "peer starts" in log.read_text())
    (job.folder / "out").rmdir()
    (job.folder / "out").touch()  # what a disk that was unmounted may leave: no folder
    wait_for("it has ended", lambda: process.poll() is not None)
    assert process.returncode == ExitCode.OK, log.read_text()
    assert (job.folder / "tiny_iter_1000.caffemodel").exists()
    assert f"the weights are in {job.folder}/tiny_iter_1000.caffemodel" in log.read_text()
