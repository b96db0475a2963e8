"""A study of LeNet on digits whose workers are killed with -9 again and again: every trial is accounted for, once.

$GOSSIP_CAFFE_STUDY_KILLS is the number of trials (24 took five minutes on two cores); without it the test is skipped. A
worker is killed every 20 s, and on a busy machine as soon as there was a result since the last kill.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.demo.digits import write_digits
from gossip_caffe.errors import GossipCaffeError
from gossip_caffe.observe.checker.verdict import verdict_of
from tests.cluster_run import ROOT, ClusterRun, cluster_run, wait_for
from tests.tiny_job import write_job

TRIALS = int(os.environ.get("GOSSIP_CAFFE_STUDY_KILLS", "0"))
EVERY_S = 20.0
DEADLINE_S = 3600.0
STUDY = """name = "digits"
solver = "examples/digits/solver.prototxt"
trials = {trials}
samples = 7200
tests = 9
seed = 3
objective = "accuracy"
pruner = "asha"
[space]
"solver.base_lr" = {{ float = [1e-3, 1e-1], log = true }}
"solver.momentum" = {{ choices = [0.8, 0.9, 0.95] }}
"net.conv1.convolution_param.num_output" = {{ int = [8, 32], step = 8 }}
"net.digits.batch_size" = {{ choices = [8, 16, 32] }}
"""
STOCK = """name = "stock"
solver = "examples/digits/solver.prototxt"
trials = 1
samples = 7200
tests = 9
objective = "accuracy"
pruner = "none"
sampler = "grid"
[space]
"solver.momentum" = {{ choices = [0.9] }}
"""

pytestmark = [
    pytest.mark.needs("caffe", "etcd", "optuna", "sklearn"),
    pytest.mark.timeout(2 * DEADLINE_S),
    pytest.mark.skipif(not TRIALS, reason="minutes: $GOSSIP_CAFFE_STUDY_KILLS is the number of trials"),
]


def workers(run: ClusterRun, parent: int) -> list[int]:
    """The process ids of the workers, without those that are just being made."""
    found = []
    for pid, command in run.processes().items():
        if " tune work " in command and f"PPid:\t{parent}\n" in Path(f"/proc/{pid}/status").read_text():
            found.append(pid)
    return found


def summary(run: ClusterRun, name: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(
            (run.folder / "clusters" / f"tune-{name}" / "study.json").read_text()
        )
    except FileNotFoundError:
        return {"trials": []}
    return record


def results_of(run: ClusterRun) -> int:
    return sum(len(trial["tests"]) for trial in summary(run, "digits")["trials"])


def test_every_trial_of_a_study_whose_workers_die_is_accounted_for(tmp_path: Path) -> None:
    digits = tmp_path / "examples" / "digits"
    digits.mkdir(parents=True)
    for name in ("solver.prototxt", "train_val.prototxt"):
        shutil.copy(ROOT / "examples" / "digits" / name, digits)
    write_digits(digits, seed=1)
    (tmp_path / "study.toml").write_text(STUDY.format(trials=TRIALS))
    (tmp_path / "stock.toml").write_text(STOCK.format())
    rng, kills, tested = random.Random(1), 0, 0
    with cluster_run(tmp_path / "state") as run:
        began = killed_at = time.monotonic()
        study = run.start("tune", "run", "study.toml", "--workers", "2", cwd=tmp_path)
        while study.poll() is None:
            assert time.monotonic() < began + DEADLINE_S
            time.sleep(0.5)
            if time.monotonic() < killed_at + EVERY_S or results_of(run) <= tested:
                continue
            if targets := workers(run, study.pid):
                killed_at, tested = time.monotonic(), results_of(run)
                os.kill(rng.choice(targets), signal.SIGKILL)
                kills += 1
        seconds = time.monotonic() - began
        assert study.returncode == 0, (run.folder / "up.log").read_text()
        seen = summary(run, "digits")
        broken: dict[str, list[str]] = {}
        for folder in sorted((run.folder / "clusters" / "tune-digits" / "trials").iterdir()):
            try:
                broken |= {folder.name: [str(one) for one in verdict_of(folder).broken]}
            except GossipCaffeError as error:
                broken[folder.name] = [str(error)]
        stock = run.run(
            "tune", "run", "stock.toml", "--json", "--unchecked", cwd=tmp_path, deadline_s=DEADLINE_S
        )
        assert stock.returncode == 0, stock.stderr
        run.assert_nothing_is_left()
    best = next(trial for trial in seen["trials"] if trial["number"] == seen["best"])
    (only,) = json.loads(stock.stdout)["trials"]
    print(
        f"\n{TRIALS} trials, {kills} kills, {seconds:.0f} s: {seen['counts']}; {seen['samples']:,} samples; "
        f"best {best['value']:.4f} with {best['values']}; stock solver {only['value']:.4f}; "
        f"{sum(not wrong for wrong in broken.values())} of {len(broken)} jobs verified"
    )
    assert [trial["number"] for trial in seen["trials"]] == list(range(TRIALS))
    assert {trial["state"] for trial in seen["trials"]} <= {"complete", "pruned"}
    assert not any(broken.values()), broken
    assert len(broken) >= TRIALS
    assert best["value"] >= only["value"]


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
