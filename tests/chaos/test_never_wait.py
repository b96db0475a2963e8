"""No step waits on a partner: one that stops answering in mid-exchange costs the solver nothing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.reading import read_history
from gossip_caffe.observe.log.runs import one_by_one
from tests.cluster_run import cluster_run, wait_for
from tests.tiny_job import write_job


def trained_while_an_offer_hung(log: Path, since: float) -> list[int]:
    """For each offer whose deadline passed ``since`` (monotonic s): how many batches were trained meanwhile."""
    counts = []
    trained = offered_at = 0
    for event in sorted(
        one_by_one(read_history(log.parent, log.stem).events), key=lambda event: float(event["m"])
    ):
        if event["event"] == Event.TRAINED:
            trained += 1
        elif event["event"] == Event.OFFERED:
            offered_at = trained
        elif event["event"] == Event.EXCHANGED and event["m"] > since:
            counts += [trained - offered_at] * ("deadline" in str(event.get("reason")))
    return counts


def test_the_solver_steps_on_while_its_partner_is_frozen_in_mid_exchange(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", iterations=400_000, pace_ms=5)
    with cluster_run(tmp_path / "state") as run:
        run.start("cluster", "up", "--peers", "2", "--solver", str(job.solver))
        wait_for(
            "both exchange", lambda: len(run.training()) == 2 and run.peers()["p0"]["exchanges_applied"] > 3
        )
        frozen = run.peers()["p1"]["agent_pid"]
        os.kill(frozen, signal.SIGSTOP)
        since = time.monotonic()
        try:
            log = run.folder / "clusters" / "local" / "run" / "events" / "p0.jsonl"
            # An offer fails after two seconds at the least, the next one later; a step of this net takes about six
            # milliseconds. A solver that waited for its partner would make one or two.
            wait_for(
                "the solver has trained more than 100 batches while an offer to the frozen peer hung",
                lambda: max(trained_while_an_offer_hung(log, since), default=0) > 100,
                60.0,
            )
        finally:
            os.kill(frozen, signal.SIGCONT)
        before = run.peers()["p0"]["exchanges_applied"]
        wait_for(
            "they exchange again", lambda: run.peers().get("p0", {}).get("exchanges_applied", 0) > before + 3
        )
        assert run.run("cluster", "down").returncode == 0
        run.assert_nothing_is_left()
