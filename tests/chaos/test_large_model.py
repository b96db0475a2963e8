"""Peers of a model of over a million weights swap them over connections of their own, and survive a killed partner."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from gossip_caffe.data.sources.source import measure
from gossip_caffe.gossip.protocol.offering import SWAP_FROM_VALUES
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.observe.checker.account import account_of
from gossip_caffe.observe.log.events import Event
from tests.cluster_run import cluster_run, wait_for
from tests.event_logs import read_logs
from tests.tiny_job import write_job

HIDDEN, RECORDS, BATCH = 30_000, 2_000, 16
WEIGHTS = 36 * HIDDEN + HIDDEN + 10 * HIDDEN + 10


def test_a_killed_partner_of_a_swap_stops_nobody_and_loses_nothing(tmp_path: Path) -> None:
    assert WEIGHTS >= SWAP_FROM_VALUES
    iterations = 6 * RECORDS // BATCH
    job = write_job(
        tmp_path / "job", records=RECORDS, batch=BATCH, hidden=HIDDEN, iterations=iterations, pace_ms=100
    )
    spec = read_job("solver", job.solver, JobSettings(), measure)
    with cluster_run(tmp_path / "state") as run:
        settings = ("--set", "exchange_every_iterations=2")
        up = run.start("cluster", "up", "--peers", "3", "--solver", str(job.solver), *settings)
        logs = run.folder / "clusters" / "local" / "run"

        def applied(peer: str) -> int:
            log = read_logs(logs).get(peer)
            return len(log.at(Event.EXCHANGED, side="offered", outcome="applied")) if log else 0

        wait_for("all exchange", lambda: all(applied(f"p{number}") >= 3 for number in range(3)))
        os.kill(run.peers()["p2"]["agent_pid"], signal.SIGKILL)
        before = applied("p0"), applied("p1")
        wait_for(
            "the others exchange on", lambda: applied("p0") > before[0] + 3 and applied("p1") > before[1] + 3
        )
        job.hurry()
        wait_for("the job is finished", lambda: run.status().get("finished") or up.poll() is not None)
        run.run("cluster", "down")
        run.assert_nothing_is_left()
        account = account_of(logs, spec)
    assert account.records_lost == 0
    assert account.records_trained == 6 * RECORDS // BATCH * BATCH
    refused = [event for log in read_logs(logs).values() for event in log.events if event.get("refusal")]
    assert not [event for event in refused if event["refusal"] == "LAYOUT_MISMATCH"]
