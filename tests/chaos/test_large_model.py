"""Peers of a model of over a million weights swap them over connections of their own, and survive a killed partner."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from gossip_caffe.data.sources.source import measure
from gossip_caffe.gossip.protocol.offering import SWAP_FROM_VALUES
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.observe.history.account import account_of
from gossip_caffe.observe.log.events import Event
from tests.cluster_run import cluster_run, wait_for
from tests.event_logs import read_logs
from tests.tiny_job import write_job

HIDDEN, RECORDS, BATCH, EPOCHS = 30_000, 2_000, 16, 3
WEIGHTS = 36 * HIDDEN + HIDDEN + 10 * HIDDEN + 10


def test_a_killed_partner_of_a_swap_stops_nobody_and_loses_nothing(tmp_path: Path) -> None:
    assert WEIGHTS >= SWAP_FROM_VALUES
    iterations = EPOCHS * RECORDS // BATCH
    job = write_job(
        tmp_path / "job", records=RECORDS, batch=BATCH, hidden=HIDDEN, iterations=iterations, pace_ms=100
    )
    spec = read_job("solver", job.solver, JobSettings(), measure)
    with cluster_run(tmp_path / "state") as run:
        settings = ("--set", "exchange_every_iterations=2")
        up = run.start("cluster", "up", "--peers", "3", "--solver", str(job.solver), *settings)
        logs = run.folder / "clusters" / "local" / "run"

        def applied(*peers: str) -> list[int]:
            found = read_logs(logs)
            met = [
                found[peer].at(Event.EXCHANGED, side="offered", outcome="applied")
                for peer in peers
                if peer in found
            ]
            return [len(times) for times in met]

        wait_for("all exchange", lambda: sum(count >= 3 for count in applied("p0", "p1", "p2")) == 3)
        os.kill(run.peers()["p2"]["agent_pid"], signal.SIGKILL)
        before = applied("p0", "p1")
        wait_for(
            "the others exchange on",
            lambda: all(now > then + 3 for now, then in zip(applied("p0", "p1"), before, strict=True)),
        )
        job.hurry()
        wait_for("the job is finished", lambda: run.status().get("finished") or up.poll() is not None)
        run.run("cluster", "down")
        run.assert_nothing_is_left()
        account = account_of(logs, spec)
    assert account.records_lost == 0
    assert account.records_trained == EPOCHS * RECORDS // BATCH * BATCH
    refused = [event for log in read_logs(logs).values() for event in log.events if event.get("refusal")]
    assert not [event for event in refused if event["refusal"] == "LAYOUT_MISMATCH"]
