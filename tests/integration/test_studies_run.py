"""``gossip-caffe tune`` as a user runs it: a short study on one machine, with a worker that is killed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.stops import stop_of
from gossip_caffe.observe.checker.verdict import verdict_of
from tests.cluster_run import ClusterRun, cluster_run, one_line, wait_for
from tests.tiny_job import TinyJob, write_job

pytestmark = pytest.mark.needs("caffe", "etcd", "optuna")

STUDY = """name = "tiny"
solver = "solver.prototxt"
trials = 4
samples = 9600
tests = 3
objective = "accuracy"
pruner = "asha"
sampler = { kind = "random" }
[space]
"solver.base_lr" = { float = [1e-4, 1e-1], log = true }
"net.ip1.num_output" = { int = [8, 64] }
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ClusterRun]:
    with cluster_run(tmp_path / "state") as made:
        yield made


@pytest.fixture
def job(tmp_path: Path) -> TinyJob:
    made = write_job(tmp_path / "job", noise=130.0)
    (made.folder / "study.toml").write_text(STUDY)
    return made


def workers(run: ClusterRun) -> list[int]:
    """The process ids of the study's workers."""
    return [
        pid for pid, command in run.processes().items() if " tune work " in command and "begin.py" in command
    ]


def trials_folder(run: ClusterRun) -> Path:
    return run.folder / "clusters" / "tune-tiny" / "trials"


def test_a_study_survives_a_killed_worker_and_its_best_trial_is_trained_on(
    run: ClusterRun, job: TinyJob
) -> None:
    study = run.start(
        "tune", "run", str(job.folder / "study.toml"), "--workers", "2", "--unchecked", cwd=job.folder
    )
    wait_for(
        "a trial trains", lambda: list(trials_folder(run).glob("*/events/*")) or study.poll() is not None
    )
    os.kill(min(workers(run)), signal.SIGKILL)
    assert study.wait(timeout=180) == 0, (run.folder / "up.log").read_text()
    assert "was killed by SIGKILL: its trial goes on elsewhere" in (run.folder / "up.log").read_text()

    seen = json.loads(run.run("tune", "status", "--json").stdout)
    assert seen["ended"]
    assert len(seen["trials"]) == 4
    assert {trial["state"] for trial in seen["trials"]} <= {"complete", "pruned"}
    for folder in trials_folder(run).iterdir():
        assert verdict_of(folder).broken == ()

    best = run.run("tune", "export", "--to", "best", cwd=job.folder)
    assert best.returncode == 0, best.stderr
    chosen = next(trial for trial in seen["trials"] if trial["number"] == seen["best"])
    outputs = chosen["values"]["net.ip1.num_output"]
    net = (job.folder / "best" / "net.prototxt").read_text()
    assert net == job.net.read_text().replace("num_output: 32", f"num_output: {outputs}")
    tested = run.run(
        *("evaluate", "--solver", "best/solver.prototxt", "--weights", "best/model.caffemodel"),
        cwd=job.folder,
    )
    assert tested.returncode == 0, tested.stderr
    assert "accuracy" in tested.stdout

    assert run.run("tune", "report", "--out", str(job.folder / "page.html")).returncode == 0
    assert "<h2>Importance</h2>" in (job.folder / "page.html").read_text()
    assert "best: trial" in run.run("tune", "best").stdout
    again = run.run("tune", "run", "study.toml", "--unchecked", "--json", cwd=job.folder)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["trials"] == seen["trials"], "it goes on where it was: at its end"
    run.assert_nothing_is_left()


def test_a_job_that_was_stopped_is_not_begun_again(run: ClusterRun, job: TinyJob, etcd: EtcdServer) -> None:
    name = f"stopped-{run.marker[:8]}"
    at = ("--etcd", etcd.endpoint)
    assert run.run("job", "create", name, "--solver", str(job.solver), "--unchecked", *at).returncode == 0

    async def stop() -> None:
        store = EtcdStore((etcd.endpoint,), SystemClock(), random.Random(1))
        await store.transact([], [stop_of(JobKeys(name), "study s: trial 3 pruned: asha")])
        await store.close()

    asyncio.run(stop())
    peer = run.run("peer", "start", "--job", name, "--run-dir", str(job.folder / "run"), *at)
    assert peer.returncode == 0
    assert "was stopped (study s: trial 3 pruned: asha); nothing to do" in peer.stdout
    assert "stopped (study s: trial 3 pruned: asha)" in run.run("job", "list", *at).stdout


def test_a_bad_study_file_is_one_line_and_nothing_is_started(run: ClusterRun, job: TinyJob) -> None:
    for old, new, said in (
        ("1e-4, 1e-1", "1e-1, 1e-4", "study.toml:10: solver.base_lr: the range 0.1 to 0.0001 is empty"),
        ("solver.base_lr", "solver.base_rate", "study.toml:10: solver.base_rate: "),
    ):
        (job.folder / "study.toml").write_text(STUDY.replace(old, new))
        done = run.run("tune", "run", "study.toml", cwd=job.folder)
        assert done.returncode == 2
        assert one_line(done).startswith(f"gossip-caffe: {said}")
    assert not (run.folder / "clusters").exists()
    assert run.run("tune", "best").returncode == 3
