"""The TEST phase on the consensus of a cluster: what it gives, who is told, and that its failing disturbs nobody."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.observe.log.events import read_events
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.tiny_job import TinyJob, write_job

pytestmark = pytest.mark.needs("caffe", "etcd")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ClusterRun]:
    with cluster_run(tmp_path / "state") as made:
        yield made


def job_with_tests(folder: Path, *, every: int, iterations: int = 3000, pace_ms: int = 2) -> TinyJob:
    job = write_job(folder, iterations=iterations, pace_ms=pace_ms)
    text = job.solver.read_text()
    text = text.replace("test_interval: 1000000\ntest_initialization: false", f"test_interval: {every}")
    job.solver.write_text(text)
    return job


def events(run: ClusterRun, kind: str) -> list[dict[str, Any]]:
    logs = (run.folder / "clusters" / "local" / "run" / "events").glob("*.jsonl")
    found = [event for log in logs for event in read_events(log) if event["event"] == kind]
    return sorted(found, key=lambda event: str(event["t"]))


def test_the_fresh_weights_the_way_and_the_result_are_tested(run: ClusterRun, tmp_path: Path) -> None:
    job = job_with_tests(tmp_path / "job", every=1000)
    done = run.run("cluster", "up", "--peers", "2", "--solver", str(job.solver))
    assert done.returncode == 0, done.stderr
    made = events(run, "tested")
    assert made[0]["iteration"] == 0
    assert made[-1]["iteration"] == 3000
    assert [event["progress_samples"] for event in made] == sorted({e["progress_samples"] for e in made})
    first, last = ({output["name"]: output for output in made[at]["outputs"]} for at in (0, -1))
    assert first["accuracy"]["means"][0] < 0.5 < 0.9 < last["accuracy"]["means"][0]
    assert (last["loss"]["loss_weight"], last["accuracy"]["loss_weight"]) == (1.0, 0.0)
    assert last["loss"]["means"][0] < first["loss"]["means"][0]
    assert events(run, "test-failed") == []
    run.assert_nothing_is_left()


def test_a_running_clusters_newest_test_is_in_its_status(run: ClusterRun, tmp_path: Path) -> None:
    job = job_with_tests(tmp_path / "job", every=200, iterations=1_000_000, pace_ms=5)
    run.start("cluster", "up", "--peers", "2", "--solver", str(job.solver))
    wait_for("two tests are made", lambda: len(events(run, "tested")) >= 2)
    status = json.loads(run.run("cluster", "status", "--json").stdout)
    assert status["tested"]["outputs"][0]["name"] == "accuracy"
    assert any((peer.get("status") or {}).get("tested") for peer in status["peers"])
    assert "test at iteration" in run.run("cluster", "status").stdout
    assert run.run("cluster", "down").returncode == 0
    run.assert_nothing_is_left()


def test_tests_that_caffe_aborts_are_told_and_training_goes_on_to_its_end(
    run: ClusterRun, tmp_path: Path
) -> None:
    job = job_with_tests(tmp_path / "job", every=300, iterations=3000, pace_ms=5)
    process = run.start("cluster", "up", "--peers", "2", "--solver", str(job.solver))
    wait_for("the peers train", lambda: len(run.training()) == 2)
    shutil.rmtree(job.test)
    wait_for("it is told", lambda: events(run, "test-failed") or process.poll() is not None)
    job.hurry()
    wait_for("the job is finished", lambda: process.poll() is not None)
    assert process.returncode == 0, (run.folder / "up.log").read_text()
    failed = events(run, "test-failed")
    assert failed
    assert "LMDB" in str(failed[-1]["cause"]) or "mdb" in str(failed[-1]["cause"])
    assert events(run, "solver-died") == []
    run.assert_nothing_is_left()


def test_a_killed_test_is_a_warning(run: ClusterRun, tmp_path: Path) -> None:
    job = job_with_tests(tmp_path / "job", every=300, iterations=1_000_000, pace_ms=5)
    text = job.solver.read_text()
    job.solver.write_text(text.replace("test_iter: 4", "test_iter: 2000000"))
    run.start("cluster", "up", "--peers", "1", "--solver", str(job.solver))

    def testers() -> list[int]:
        return [pid for pid, command in run.processes().items() if "evaluation_child" in command]

    (pid,) = wait_for("a test runs", testers)
    os.kill(pid, signal.SIGKILL)
    wait_for("it is told", lambda: events(run, "test-failed"))
    assert "SIGKILL" in str(events(run, "test-failed")[0]["cause"])
    wait_for("the next test runs", testers)
    assert run.run("cluster", "down").returncode == 0
    run.assert_nothing_is_left()
