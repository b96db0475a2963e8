"""Kill -9 of peers in the middle of synchronous rounds: the others form the round anew, and nothing is lost.

``ROUND_KILLS=40 pytest -s`` prints how long the survivors of so many kills stopped.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from gossip_caffe.observe.checker.verdict import InvariantStatus, verdict_of
from gossip_caffe.observe.log.reading import logs_of, read_histories
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.tiny_job import write_job

PEERS = 4
KILLS = int(os.environ.get("ROUND_KILLS", "3"))
LONGEST_WAIT_S = 0.2
"""A kill comes at a random moment within so many seconds: in any phase of a round, or between two."""


def rounds_of(run: ClusterRun, names: set[str]) -> dict[str, int]:
    """How many rounds each of these peers has applied, as its status says."""
    peers = run.peers()
    return {name: peers[name]["exchanges_applied"] for name in names if name in peers}


def stops(logs: dict[str, list[Any]], kills: list[tuple[float, str]]) -> list[float]:
    """The longest time without a round of each survivor, around each kill (s)."""
    found = []
    for at, killed in kills:
        for name, events in logs.items():
            applied = [e["t"] for e in events if e["event"] == "round" and e["outcome"] == "applied"]
            gaps = [
                later - earlier for earlier, later in pairwise(applied) if earlier <= at + 0.5 and later >= at
            ]
            if name != killed and gaps:
                found.append(max(gaps))
    return sorted(found)


@pytest.mark.timeout(60 * 60)
def test_survivors_of_kills_in_rounds_go_on_without_a_restart_and_nothing_is_lost(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", records=9600, batch=16, iterations=1_000_000, pace_ms=20)
    rng, kills = random.Random(1), []
    with cluster_run(tmp_path / "state") as run:
        settings = ("--set", "strategy=sync", "--set", "sync_start_peers=4")
        run.start("cluster", "up", "--peers", str(PEERS), "--solver", str(job.solver), *settings)
        wait_for("all peers train", lambda: len(run.training()) == PEERS)
        for number in range(KILLS):
            before = run.training()
            killed = min(before) if number % 2 else rng.choice(sorted(before))  # the leader by turns
            survivors = set(before) - {killed}
            applied = rounds_of(run, survivors)
            time.sleep(rng.uniform(0.0, LONGEST_WAIT_S))
            kills.append((time.time(), killed))
            os.kill(before[killed]["agent_pid"], signal.SIGKILL)

            def go_on(survivors: set[str] = survivors, applied: dict[str, int] = applied) -> bool:
                now = rounds_of(run, survivors)
                return all(now.get(name, 0) > applied[name] + 10 for name in survivors)

            wait_for(f"the survivors of {killed} go on", go_on)
            after = run.peers()
            assert all(after[name]["agent_pid"] == before[name]["agent_pid"] for name in survivors)
            assert all(after[name]["solver_restarts"] == 0 for name in survivors)
            assert run.run("cluster", "scale", str(PEERS)).returncode == 0
            wait_for("all peers train", lambda: len(run.training()) == PEERS)
        run_dir = Path(run.status()["run_dir"])
        assert run.run("cluster", "down").returncode == 0
        run.assert_nothing_is_left()
    found = verdict_of(run_dir)
    assert not found.broken, [(one.invariant, one.reason) for one in found.broken]
    assert found.standing("whole-round") is InvariantStatus.HOLDS
    assert found.standing("durable-done") is InvariantStatus.HOLDS
    assert found.counters.kills == KILLS
    logs = {name: list(events) for name, events in logs_of(read_histories(run_dir / "events")).items()}
    waited = stops(logs, kills)
    told = {
        "kills": KILLS,
        "stop_p50_s": round(median(waited), 3),
        "stop_p99_s": round(waited[int(0.99 * (len(waited) - 1))], 3),
        "rounds": found.counters.rounds,
        "rounds_partial": found.counters.rounds_partial,
    }
    print(f"RESULT {json.dumps(told)}")
