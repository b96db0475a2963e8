"""A peer that is frozen in the middle of synchronous rounds: the others stop for its lease and go on; it comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.observe.checker.verdict import InvariantStatus, Verdict, verdict_of
from gossip_caffe.observe.log.reading import logs_of, read_histories
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.tiny_job import TinyJob, write_job

PEERS = 3
TTL_S = 3
PROTOCOL_S = TTL_S + 1.0
"""The others stop for the rest of the frozen peer's lease, and for a second at most."""
BUSY_S = 8.0
"""A busy machine may take so much longer: the lease's end in etcd, the watch, and the round are late then."""


def applied(run: ClusterRun, names: set[str]) -> dict[str, int]:
    """How many rounds each of these peers has applied, as its status says."""
    peers = run.peers()
    return {name: peers[name]["exchanges_applied"] for name in names if name in peers}


def have_applied(run: ClusterRun, names: set[str], then: dict[str, int], more: int) -> bool:
    """Whether each of these peers has applied over ``more`` rounds since ``then``."""
    return all(now > then[name] + more for name, now in applied(run, names).items())


def rounds_in(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events of rounds that were applied."""
    return [event for event in events if event["event"] == "round" and event["outcome"] == "applied"]


def ended_whole(run: ClusterRun, up: subprocess.Popen[bytes], job: TinyJob) -> tuple[Path, Verdict]:
    """Let the job finish: nothing is left, lost or broken. Returns the run folder, and the verdict on it."""
    run_dir = Path(run.status()["run_dir"])
    job.hurry()
    wait_for("the job is finished", lambda: up.poll() is not None)
    assert up.returncode == 0, (run.folder / "up.log").read_text()
    run.assert_nothing_is_left()
    found = verdict_of(run_dir)
    assert not found.broken, [(one.invariant, one.reason) for one in found.broken]
    assert found.counters.records_lost == 0
    return run_dir, found


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "leads", [True, pytest.param(False, marks=pytest.mark.long)], ids=["the leader", "a member"]
)
def test_a_frozen_peer_stops_the_others_for_its_lease_and_comes_back(tmp_path: Path, leads: bool) -> None:
    job = write_job(tmp_path / "job", records=9600, batch=16, iterations=600, pace_ms=120)
    with cluster_run(tmp_path / "state") as run:
        settings = ("--set", "strategy=sync", "--set", f"lease_ttl_s={TTL_S}", "--set", "sync_start_peers=3")
        up = run.start("cluster", "up", "--peers", str(PEERS), "--solver", str(job.solver), *settings)
        wait_for("all peers train", lambda: len(run.training()) == PEERS)
        before = run.training()
        frozen = min(before) if leads else max(before)
        others = set(before) - {frozen}
        then = applied(run, set(before))
        wait_for("rounds are made", lambda: have_applied(run, others, then, 0))
        then, at, pid = applied(run, others), time.time(), before[frozen]["agent_pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_for("the others go on", lambda: have_applied(run, others, then, 10))
        finally:
            os.kill(pid, signal.SIGCONT)
        back = applied(run, others)
        wait_for("the frozen peer trains again", lambda: len(run.training()) == PEERS)
        wait_for("all go on", lambda: have_applied(run, others, back, 5))
        after = run.peers()
        assert all(after[name]["agent_pid"] == before[name]["agent_pid"] for name in before)
        assert all(after[name]["solver_restarts"] == 0 for name in others)
        run_dir, found = ended_whole(run, up, job)
    assert found.standing("whole-round") is InvariantStatus.HOLDS
    stops = []
    for name, events in logs_of(read_histories(run_dir / "events")).items():
        rounds = [event["t"] for event in rounds_in(events)]
        if name in others:
            stops.append(max(later - first for first, later in pairwise(rounds) if later >= at))
    print(f"RESULT {json.dumps({'leads': leads, 'stop_s': round(max(stops), 2)})}")
    assert max(stops) <= PROTOCOL_S + BUSY_S


@pytest.mark.timeout(600)
def test_a_straggler_is_left_out_after_sync_wait_s_and_its_steps_are_in_later_rounds(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", records=9600, batch=16, iterations=600, pace_ms=120)
    with cluster_run(tmp_path / "state") as run:
        settings = ("--set", "strategy=sync", "--set", "sync_wait_s=0.2", "--set", "lease_ttl_s=60")
        up = run.start("cluster", "up", "--peers", str(PEERS), "--solver", str(job.solver), *settings)
        wait_for("all peers train", lambda: len(run.training()) == PEERS)
        before = run.training()
        slow = max(before)
        others = set(before) - {slow}
        pid = before[slow]["solver_pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            then = applied(run, others)
            wait_for("the others go on without it", lambda: have_applied(run, others, then, 5))
        finally:
            os.kill(pid, signal.SIGCONT)
        then = applied(run, {slow})
        wait_for("it is in rounds again", lambda: applied(run, {slow})[slow] > then[slow] + 5)
        run_dir, _ = ended_whole(run, up, job)
    logs = logs_of(read_histories(run_dir / "events"))
    sizes = {event["members"] for name in others for event in rounds_in(logs[name])}
    assert {PEERS - 1, PEERS} <= sizes
