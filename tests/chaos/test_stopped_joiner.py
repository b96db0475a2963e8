"""A peer is stopped for longer than its lease while it joins: it joins again by itself, and does its part."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from gossip_caffe.cluster.state.folder import ClusterState
from gossip_caffe.cluster.supervision.control import ask
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.observe.checker.verdict import InvariantStatus, verdict_of
from gossip_caffe.observe.log.events import Event
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.etcd_read import asked
from tests.event_logs import read_logs, wait_for_more_done
from tests.tiny_job import write_job

TRIES = 4
"""A peer may be through with joining before it can be stopped: then the next one is tried."""
LOOK_EVERY_S = 0.02


def members(endpoint: str) -> dict[str, PeerRecord]:
    listed = asked(endpoint, lambda store: store.list(JobKeys("solver").peers))
    records = [PeerRecord.from_json(item.value) for item in listed.items]
    return {record.peer: record for record in records}


def trains(run: ClusterRun, peer: str) -> None:
    wait_for("it trains", lambda: peer in run.training())


def stopped_joiner(run: ClusterRun, endpoint: str) -> PeerRecord:
    """One more peer, stopped before it trains."""
    for _ in range(TRIES):
        before = members(endpoint)

        def newcomer(before: dict[str, PeerRecord] = before) -> PeerRecord | None:
            return next((record for name, record in members(endpoint).items() if name not in before), None)

        ask(ClusterState("local", run.folder), {"do": "scale", "peers": len(before) + 1})
        record: PeerRecord = wait_for("one more peer registers", newcomer, look_every_s=LOOK_EVERY_S)
        os.kill(record.pid, signal.SIGSTOP)
        if members(endpoint)[record.peer].state != "training":
            return record
        os.kill(record.pid, signal.SIGCONT)
        trains(run, record.peer)
    raise AssertionError(f"none of {TRIES} peers could be stopped while it joined")


def test_a_joiner_that_is_stopped_for_longer_than_its_lease_joins_again(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", records=20_000, batch=16, iterations=15_000, pace_ms=20)
    with cluster_run(tmp_path / "state") as run:
        arguments = ("--peers", "1", "--solver", str(job.solver), "--set", "lease_ttl_s=3")
        up = run.start("cluster", "up", *arguments)
        wait_for("the first trains", lambda: len(run.training()) == 1)
        run_dir = run.folder / "clusters" / "local" / "run"
        endpoint = run.status()["etcd"]
        record = stopped_joiner(run, endpoint)
        wait_for("its lease has ended", lambda: record.peer not in members(endpoint))
        os.kill(record.pid, signal.SIGCONT)
        trains(run, record.peer)
        wait_for_more_done(run_dir, 2)
        job.hurry()
        wait_for("the job is finished", lambda: up.poll() is not None)
        assert up.returncode == 0, (run.folder / "up.log").read_text()
        run.assert_nothing_is_left()
    log = read_logs(run_dir)[record.peer]
    assert log.at(Event.LEASE_LOST)[0] < log.at(Event.STATE, new="training")[0] < log.at(Event.CLAIMED)[0]
    assert log.count(Event.STARTED) == 1
    found = verdict_of(run_dir)
    assert found.broken == ()
    assert found.counters.records_lost == 0
    assert found.standing("coordinator-loss") is InvariantStatus.HOLDS
