"""A study of LeNet on digits whose workers are killed with -9 again and again: every trial is accounted for, once.

$GOSSIP_CAFFE_STUDY_KILLS is the number of trials (24 took five minutes on two cores); without it the test is skipped. A
worker is killed every 20 s, and on a busy machine as soon as there was a result since the last kill.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.observe.checker.verdict import verdict_of
from tests.cluster_run import ROOT, cluster_run, wait_for
from tests.tiny_job import write_job

TRIALS = int(os.environ.get("GOSSIP_CAFFE_STUDY_KILLS", "0"))
DEADLINE_S = 3600.0

pytestmark = [
    pytest.mark.needs("caffe", "etcd", "optuna", "sklearn"),
    pytest.mark.timeout(2 * DEADLINE_S),
    pytest.mark.skipif(not TRIALS, reason="minutes: $GOSSIP_CAFFE_STUDY_KILLS is the number of trials"),
]


def test_every_trial_of_a_study_whose_workers_die_is_accounted_for() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GOSSIP_CAFFE_FASHION_MNIST"}
    done = subprocess.run(
        [sys.executable, "benchmarks/study.py", "--trials", str(TRIALS)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=2 * DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    figures = json.loads(done.stdout.split("RESULT ")[1])
    assert figures["study_kills"] > 0
    assert figures["study_trials"] == TRIALS
    assert (figures["study_unfinished"], figures["study_broken_jobs"]) == (0, 0)
    assert figures["study_jobs"] >= TRIALS
    assert figures["study_best"] >= figures["study_stock"]


def test_three_workers_without_etcd_for_30_s_lose_nothing(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", noise=130.0, pace_ms=10)
    (job.folder / "study.toml").write_text(
        f"""name = "away"
solver = "solver.prototxt"
trials = 6
samples = 32000
tests = 4
objective = "accuracy"
pruner = "none"
store = "file://{tmp_path}/store"
[space]
"solver.base_lr" = {{ float = [1e-3, 1e-1], log = true }}
"""
    )
    etcd = EtcdServer(tmp_path / "etcd")
    etcd.start()
    with cluster_run(tmp_path / "state") as run:
        at = ("--etcd", etcd.endpoint)
        made = run.run("tune", "create", "study.toml", "--unchecked", *at, cwd=job.folder)
        assert made.returncode == 0, made.stderr
        workers = []
        for number in range(3):
            with (tmp_path / f"w{number}.log").open("wb") as log:
                command = run.command(
                    *(
                        "tune",
                        "work",
                        "--worker",
                        f"w{number}",
                        "--run-dir",
                        str(tmp_path / "runs"),
                        *at,
                        "--allow-code",
                    )
                )
                workers.append(subprocess.Popen(command, env=run.environment, stdout=log, stderr=log))

        def seen() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(run.run("tune", "status", "--json", *at).stdout or "{}")
            return found

        wait_for(
            "all train", lambda: sum(bool(one["tests"]) for one in seen().get("trials", [])) >= 3, DEADLINE_S
        )
        before = {one["number"]: one["job"] for one in seen()["trials"]}
        etcd.kill()
        time.sleep(30.0)
        etcd.start()
        assert [worker.wait(timeout=DEADLINE_S) for worker in workers] == [0, 0, 0]
        after = seen()
        assert after["ended"]
        assert after["counts"] == {"running": 0, "complete": 6, "pruned": 0, "failed": 0}
        assert all(after["trials"][number]["job"] == job for number, job in before.items()), (
            "none started over"
        )
        for folder in sorted((tmp_path / "runs").iterdir()):
            assert not verdict_of(folder).broken
        run.assert_nothing_is_left()
    etcd.stop()
