"""A chaos run as a user runs it: injections are carried out, the job ends whole, and an interrupted run goes on."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.chaos_job import write_chaos_job
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.tiny_job import write_job

SCENARIO = """seed = 5
peers = 2
at_least = 2
every_s = [0.1, 0.3]
round_limit_s = 150.0
settings = ["lease_ttl_s=5"]
[[fault]]
act = "kill"
times = 3
what = ["agent", "solver", "loader"]
[[fault]]
act = "kill"
what = ["agent"]
when = ["starting"]
[[fault]]
act = "reset"
"""
WITH_CAFFE = """seed = 5
peers = 2
at_least = 2
every_s = [0.1, 0.3]
settings = ["lease_ttl_s=5", "checkpoint_every_samples=4000"]
[[fault]]
act = "kill"
times = 2
what = ["agent"]
when = ["syncing", "offering"]
[[fault]]
act = "disk-full"
amount = 700_000.0
for_s = 20.0
[[fault]]
act = "cut"
amount = 100_000.0
"""


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, ...]:
    job = write_job(tmp_path / "job", records=9600, batch=64, iterations=5_000)
    (tmp_path / "some.toml").write_text(SCENARIO)
    scenario, folder = str(tmp_path / "some.toml"), str(tmp_path / "run")
    return ("chaos", "run", scenario, "--solver", str(job.solver), "--folder", folder, "--engine", "numpy")


def progress(tmp_path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((tmp_path / "run" / "chaos.json").read_text())
    except FileNotFoundError:
        return {"carried_out": 0}
    return found


def test_a_run_that_is_interrupted_leaves_nothing_and_the_same_command_deals_the_rest(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    with cluster_run(tmp_path / "state") as run:
        first = run.start(*words)
        wait_for("an injection was carried out", lambda: progress(tmp_path)["carried_out"])
        os.kill(first.pid, signal.SIGTERM)
        assert first.wait(60) == 130, (run.folder / "up.log").read_text()
        run.assert_nothing_is_left()
        record = finished(run, words)
        assert (record["carried_out"], record["kills_in_all"]) == (5, 4)
        assert record["kills"] == {"agent": 2, "solver": 1, "loader": 1}
        assert record["phases"]["starting"] >= 1
        assert record["no_accuracy"]
        assert record["rounds"] >= 2
        assert (record["records_lost"], record["broken"], record["failed"]) == (0, [], [])
        last = tmp_path / "run" / "clusters" / f"round-{record['rounds']}" / "run"
        assert (last / "report.html").is_file()
        assert '"aftermath"' in (last / "observer.jsonl").read_text().splitlines()[-1]
        run.assert_nothing_is_left()


def test_the_models_are_as_accurate_as_that_of_a_run_in_peace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACE_MS", "10")
    job = write_chaos_job(tmp_path / "job", epochs=1, records=24_000, batch=16)
    (tmp_path / "caffe.toml").write_text(WITH_CAFFE)
    words = ("chaos", "run", str(tmp_path / "caffe.toml"), "--solver", str(job.solver))
    with cluster_run(tmp_path / "state") as run:
        record = finished(run, (*words, "--folder", str(tmp_path / "run")))
        run.assert_nothing_is_left()
    assert (record["carried_out"], record["records_lost"], record["broken"]) == (4, 0, [])
    assert record["phases"] == {"syncing": 1, "offering": 1}
    assert 0.8 < record["undisturbed_accuracy"] < 0.95
    assert len(record["accuracies"]) == record["rounds"]
    logs = [path.read_text() for path in (tmp_path / "run" / "clusters").glob("round-*/logs/p*.log")]
    assert any("cannot write checkpoint" in log for log in logs), "no disk was full when a checkpoint was due"


def finished(run: ClusterRun, words: tuple[str, ...]) -> dict[str, Any]:
    done = run.run(*words, "--json", deadline_s=600.0)
    assert done.returncode == 0, done.stderr + done.stdout
    record: dict[str, Any] = json.loads(done.stdout)
    return record
