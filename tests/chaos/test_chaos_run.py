"""A chaos run as a user runs it: strokes are dealt, the job ends whole, and an interrupted run goes on."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.tiny_job import write_job

SCENARIO = """seed = 5
peers = 2
at_least = 2
every_s = [0.1, 0.3]
round_limit_s = 150.0
settings = ["lease_ttl_s=3"]
[[fault]]
act = "kill"
times = 3
what = ["agent", "solver", "loader"]
[[fault]]
act = "reset"
"""


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, ...]:
    job = write_job(tmp_path / "job", records=9600, batch=64, iterations=5_000)
    (tmp_path / "some.toml").write_text(SCENARIO)
    scenario, folder = str(tmp_path / "some.toml"), str(tmp_path / "run")
    return ("chaos", "run", scenario, "--solver", str(job.solver), "--folder", folder, "--engine", "numpy")


def standing(tmp_path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((tmp_path / "run" / "chaos.json").read_text())
    except FileNotFoundError:
        return {"dealt": 0}
    return found


def test_a_run_that_is_interrupted_leaves_nothing_and_the_same_command_deals_the_rest(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    with cluster_run(tmp_path / "state") as run:
        first = run.start(*words)
        wait_for("a stroke was dealt", lambda: standing(tmp_path)["dealt"])
        os.kill(first.pid, signal.SIGTERM)
        assert first.wait(60) == 130, (run.folder / "up.log").read_text()
        run.assert_nothing_is_left()
        record = finished(run, words)
        assert (record["dealt"], record["kills_in_all"]) == (4, 3)
        assert record["kills"] == {"agent": 1, "solver": 1, "loader": 1}
        assert record["rounds"] >= 2
        assert (record["records_lost"], record["broken"], record["failed"]) == (0, [], [])
        last = tmp_path / "run" / "clusters" / f"round-{record['rounds']}" / "run"
        assert (last / "report.html").is_file()
        assert '"aftermath"' in (last / "observer.jsonl").read_text().splitlines()[-1]
        run.assert_nothing_is_left()


def finished(run: ClusterRun, words: tuple[str, ...]) -> dict[str, Any]:
    done = run.run(*words, "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    record: dict[str, Any] = json.loads(done.stdout)
    return record
