"""A peer that is three times slower than the others is planned, and trains, a third of what each of them does."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest

from gossip_caffe.observe.log.events import Event
from tests.cluster_run import ROOT, cluster_run, wait_for
from tests.event_logs import PeerLog, read_logs
from tests.tiny_job import TinyJob, write_job

BATCH, FAST_MS, SLOW_MS, FAST_PEERS = 16, 30, 90, 3
EPOCH_S = 36
"""How long an epoch takes, roughly; the tail of an epoch, a second or two of claimed work, must be a small part."""
RECORDS = int(EPOCH_S * (FAST_PEERS / FAST_MS + 1 / SLOW_MS) * 1000) * BATCH


def paced_job(folder: Path) -> TinyJob:
    """Two epochs, and an eighth: more than the fast peers train while the slow one ends the second."""
    return write_job(folder, records=RECORDS, batch=BATCH, iterations=17 * RECORDS // (8 * BATCH), pace_ms=0)


def trained_in(log: PeerLog, epoch: int) -> list[tuple[float, int]]:
    """(monotonic seconds, records) of each batch with records of that epoch."""
    return [
        (event["m"], sum(stop - start for of, start, stop in event["parts"] if of == epoch))
        for event in log.events
        if event["event"] == Event.TRAINED and any(of == epoch for of, _, _ in event["parts"])
    ]


def trained_between(log: PeerLog, start: float, stop: float) -> int:
    """Records of any epoch trained in that time."""
    return sum(
        last - first
        for event in log.events
        if event["event"] == Event.TRAINED and start < event["m"] <= stop
        for _, first, last in event["parts"]
    )


def test_a_peer_three_times_slower_gets_about_a_third_and_the_epoch_ends_nearly_as_soon_as_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = paced_job(tmp_path / "job")
    monkeypatch.setenv("PACE_MS", str(FAST_MS))
    with cluster_run(tmp_path / "state") as run:
        run.start("cluster", "up", "--peers", str(FAST_PEERS), "--solver", str(job.solver), cwd=ROOT)
        etcd = wait_for("the cluster is up", lambda: run.status().get("etcd"))
        logs = run.folder / "clusters" / "local" / "run"
        monkeypatch.setenv("PACE_MS", str(SLOW_MS))
        slow_one = run.run(
            *(
                "peer",
                "start",
                "--allow-code",
                "--etcd",
                etcd,
                "--job",
                "solver",
                "--name",
                "slow",
                "--run-dir",
                str(logs),
            ),
            deadline_s=400.0,
            cwd=ROOT,
        )
        assert slow_one.returncode == 0, slow_one.stderr
        wait_for("the job is finished", lambda: run.status().get("finished", "down") is not None)
        run.run("cluster", "down")
        run.assert_nothing_is_left()
        found = read_logs(logs)
    fast, slow = [log for name, log in found.items() if name != "slow"], found["slow"]

    times = [at for log in found.values() for at, _ in trained_in(log, 1)]
    began, ended = min(times), max(times)
    # A busy machine slows the fast peers more than the slow one, which mostly sleeps: so a third is only about right.
    slower = trained_between(slow, began, ended) / mean(trained_between(log, began, ended) for log in fast)
    assert 0.25 < slower < 0.75
    weights = {
        name: [e["weight"] for e in log.events if e["event"] == Event.WEIGHED] for name, log in found.items()
    }
    weight = weights["slow"][-1] / mean(weights[f"p{n}"][-1] for n in range(FAST_PEERS))
    assert weight == pytest.approx(slower, rel=0.25)
    # The second epoch: by then everybody has been measured.
    share = sum(records for _, records in trained_in(slow, 1))
    assert share / mean(sum(records for _, records in trained_in(log, 1)) for log in fast) == pytest.approx(
        slower, rel=0.25
    )
    pace = sum(trained_between(log, began, ended) for log in found.values()) / (ended - began)
    assert ended - began <= 1.10 * RECORDS / pace
