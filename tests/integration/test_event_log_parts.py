"""The event logs of a real run in many parts, with a kill: they are judged like the same logs in one part each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gossip_caffe.observe.checker.verdict import InvariantStatus, Verdict, verdict_of
from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.parts import closed_parts, parts_of, peers_in, tail_of
from gossip_caffe.observe.log.reading import PeerHistory, read_histories
from tests.cluster_run import cluster_run, wait_for
from tests.tiny_job import write_job

pytestmark = pytest.mark.needs("caffe", "etcd")

PARTS = 10


def in_one_part(histories: dict[str, PeerHistory], run_dir: Path) -> Verdict:
    """The verdict on the same events in one file for each peer."""
    (run_dir / "events").mkdir(parents=True)
    for peer, history in histories.items():
        lines = (json.dumps(event) + "\n" for event in history.events)
        (run_dir / "events" / f"{peer}.jsonl").write_text("".join(lines))
    return verdict_of(run_dir)


def test_a_run_with_a_kill_and_logs_of_ten_parts_is_judged_like_the_same_run_in_one(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", records=4000, batch=16, iterations=8_000, pace_ms=2)
    with cluster_run(tmp_path / "state") as run:
        small = ("--event-log-part", "4kB")
        process = run.start("cluster", "up", "--peers", "3", "--solver", str(job.solver), *small)
        events = run.folder / "clusters" / "local" / "run" / "events"
        wait_for(
            "every peer has closed some parts",
            lambda: (
                len(peers_in(events)) == 3 and all(len(closed_parts(events, f"p{n}")) > 3 for n in range(3))
            ),
        )
        assert run.run("cluster", "kill", "p1").returncode == 0
        wait_for("the others have closed enough", lambda: len(closed_parts(events, "p0")) >= PARTS)
        job.hurry()
        wait_for("the job is finished", lambda: process.poll() is not None, 300.0)
        assert process.returncode == 0, (run.folder / "up.log").read_text()
        run.assert_nothing_is_left()

        found, histories = verdict_of(events.parent), read_histories(events)
        assert not found.broken
        assert not found.missing
        assert found.counters.kills == 1
        assert found.counters.records_lost == 0
        assert found == in_one_part(histories, tmp_path / "one")
        for peer, history in histories.items():
            parts = parts_of(events, peer)
            assert [part.number for part in parts] == list(range(1, len(parts) + 1))
            if peer != "p1":
                assert len(parts) > PARTS
                assert all(part.compressed for part in parts[:-1])
                assert not tail_of(events, peer).exists()
                runs = [event for event in history.events if event["event"] == Event.TRAINED]
                assert sum(event.get("batches", 1) for event in runs) > 3 * len(runs)

        gone = closed_parts(events, "p0")[2].path
        gone.unlink()
        without = run.run("verify", str(events.parent))
        assert without.returncode == 0, without.stderr
        assert "part 3 of the log of p0 is missing" in without.stdout
        assert verdict_of(events.parent).standing("full-coverage") is InvariantStatus.UNSEEN
