"""Caffe's trial of a job before it is made: when it is slow, when there is no Caffe, and when it is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gossip_caffe.errors import ExitCode
from tests.cluster_run import ClusterRun, cluster_run, one_line, wait_for
from tests.tiny_job import TinyJob, write_job

pytestmark = [pytest.mark.integration, pytest.mark.needs("caffe")]

SLOW_LAYER = """
import time
import caffe

class Slow(caffe.Layer):
    def setup(self, bottom, top):
        time.sleep({seconds})

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data

    def backward(self, top, propagate_down, bottom):
        pass
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ClusterRun]:
    with cluster_run(tmp_path / "state") as found:
        yield found


@pytest.fixture
def job(tmp_path: Path) -> TinyJob:
    return write_job(tmp_path / "job", records=64, iterations=40)


def validate(
    run: ClusterRun, job: TinyJob, python_path: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{python_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        return run.run("job", "validate", str(job.solver), *options)


def slow(job: TinyJob, seconds: float) -> None:
    (job.folder / "slow.py").write_text(SLOW_LAYER.format(seconds=seconds))
    text = job.net.read_text()
    job.net.write_text(text.replace('"ReLU"', '"Python" python_param { module: "slow" layer: "Slow" }'))


def test_what_takes_a_while_says_so_once(run: ClusterRun, job: TinyJob) -> None:
    slow(job, 1.2)  # in the net that is trained and in the one that is tested
    done = validate(run, job, job.folder)
    assert done.returncode == 0, done.stderr
    assert one_line(done) == "Caffe builds the nets once, to check them …"
    assert "can be trained" in done.stdout


def test_ctrl_c_leaves_no_process(run: ClusterRun, job: TinyJob, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(job, 3600)
    monkeypatch.setenv("PYTHONPATH", f"{job.folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    process = run.start("job", "validate", str(job.solver))
    wait_for("Caffe builds the net", lambda: "…" in (run.folder / "up.log").read_text())
    wait_for("the command, the child that has Caffe, and the attempt", lambda: len(run.processes()) == 3)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == ExitCode.INTERRUPTED
    assert (run.folder / "up.log").read_text().splitlines()[-1] == "gossip-caffe: interrupted"
    run.assert_nothing_is_left()


def test_the_command_s_death_is_the_trials_too(
    run: ClusterRun, job: TinyJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(job, 3600)
    monkeypatch.setenv("PYTHONPATH", f"{job.folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    process = run.start("job", "validate", str(job.solver))
    wait_for("Caffe builds the net", lambda: "…" in (run.folder / "up.log").read_text())
    process.kill()
    process.wait(20)
    run.assert_nothing_is_left()


def test_without_a_caffe_the_check_can_be_left_out(run: ClusterRun, job: TinyJob, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "caffe.py").write_text("raise ImportError('libcaffe.so: no such file')")
    done = validate(run, job, tmp_path / "none")
    assert done.returncode == ExitCode.ENVIRONMENT
    assert one_line(done) == (
        "gossip-caffe: cannot import caffe: ImportError: libcaffe.so: no such file; "
        "run 'gossip-caffe doctor', or skip this check with --unchecked"
    )
    done = validate(run, job, tmp_path / "none", "--unchecked")
    assert done.returncode == 0, done.stderr
    text = job.net.read_text()
    job.net.write_text(
        text.replace('"SoftmaxWithLoss" bottom: "ip2" bottom: "label"', '"Softmax" bottom: "ip2"')
    )
    done = validate(run, job, tmp_path / "none", "--unchecked")
    assert done.returncode == ExitCode.USAGE
    assert "the TRAIN net has no loss" in done.stderr
