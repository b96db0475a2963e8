"""Peers come, leave and are killed while two epochs are trained: the account is whole, and anybody can read it."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gossip_caffe.data.sources.source import measure
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings, JobSpec
from gossip_caffe.observe.history.account import account_of
from gossip_caffe.observe.log.events import Event
from gossip_caffe.shards.epochs import ChunkId, Epochs
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.event_logs import PeerLog, chunks_unclaimed, read_logs
from tests.tiny_job import TinyJob, write_job

RECORDS, BATCH, PACE_MS = 32_000, 16, 200
"""Two epochs take four peers over three minutes; once all has happened that is to happen on the way, seconds."""

CLAIMED_BEFORE = 3
"""So many chunks, a second's work each, may be claimed before one of a dead peer: survivors plan apart for a moment."""


def two_epochs(folder: Path) -> TinyJob:
    iterations = 2 * RECORDS // BATCH
    return write_job(folder, records=RECORDS, batch=BATCH, iterations=iterations, pace_ms=PACE_MS)


def spec_of(job: TinyJob) -> JobSpec:
    return read_job("solver", job.solver, JobSettings(), measure)


def run_dir(run: ClusterRun) -> Path:
    return run.folder / "clusters" / "local" / "run"


def scale(run: ClusterRun, wanted: int) -> None:
    """Scale, and wait until all of them train."""
    done = run.run("cluster", "scale", str(wanted))
    assert done.returncode == 0, done.stderr

    def trains() -> bool:
        assert run.status().get("finished", "down") is None, "the job is over too soon; make it longer"
        return len(run.training()) == wanted

    wait_for(f"{wanted} peers train", trains)


def shards(run: ClusterRun) -> dict[str, Any]:
    done = run.run("shards", "show", "--job", "solver", "--json", "--etcd", run.status()["etcd"])
    assert done.returncode == 0, done.stderr
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def of(shown: Mapping[str, Any], state: str) -> dict[ChunkId, str]:
    """Chunk → peer, of the chunks in that state."""
    return {
        ChunkId(epoch["epoch"], chunk): peer
        for epoch in shown["open"]
        for peer, chunks in epoch["peers"].items()
        for chunk in chunks[state]
    }


def assert_shown_as_logged(run: ClusterRun) -> None:
    """`shards show` lies between what the logs said before and what they say soon after.

    The store knows of a claim or a settlement a moment before the log does.
    """
    before = read_logs(run_dir(run))
    shown = shards(run)
    owned, done = of(shown, "owned"), of(shown, "done")
    assert not set(owned) & set(done)
    assert shown["open"]
    for epoch in shown["open"]:
        assert epoch["left"] == epoch["chunks"] - epoch["owned"] - epoch["done"] >= 0

    def logged() -> dict[str, PeerLog] | None:
        now = read_logs(run_dir(run))
        all_done = all(chunk in now[peer].done for chunk, peer in done.items())
        all_claimed = all(chunk in {its for _, its in now[peer].claims} for chunk, peer in owned.items())
        return now if all_done and all_claimed else None

    after = wait_for("the logs know what etcd showed", logged, 30.0)
    for peer, log in before.items():
        open_ones = {chunk for chunk in log.done if chunk.epoch >= shown["epochs_finished"]}
        assert all(done.get(chunk) == peer for chunk in open_ones)
        for chunk in log.owned & after[peer].owned:  # it had them all the time
            assert owned.get(chunk) == peer


def assert_left_in_order(name: str, log: PeerLog) -> None:
    """All that it ever claimed it settled or handed back, and nothing was trained after its last exchange."""
    assert log.events[-1]["event"] == Event.LEFT, f"{name} has no last word"
    claimed = {chunk for _, chunk in log.claims}
    assert claimed == log.done | log.released, name
    assert not log.owned, name
    assert not log.unknown, name
    if drained_at := log.at(Event.STATE, new="draining"):
        trained = log.at(Event.TRAINED)
        shared = [*log.at(Event.EXCHANGED, side="offered", outcome="applied"), *log.at(Event.CHECKPOINTED)]
        if trained and trained[-1] > drained_at[0]:
            assert max(shared) > trained[-1], f"{name} left without a last exchange"


def ended(run: ClusterRun, process: Any) -> None:
    wait_for("the job is finished", lambda: process.poll() is not None, 400.0)
    log = (run.folder / "up.log").read_text()
    assert process.returncode == 0, log
    assert "is finished" in log


def test_from_two_peers_to_six_to_three_to_five_every_record_is_trained_once(tmp_path: Path) -> None:
    job = two_epochs(tmp_path / "job")
    with cluster_run(tmp_path / "state") as run:
        # Nobody dies here: a machine that stands still for some seconds must not look like a death.
        start = ("cluster", "up", "--peers", "2", "--solver", str(job.solver), "--set", "lease_ttl_s=60")
        process = run.start(*start)
        wait_for("both train", lambda: len(run.training()) == 2)
        assert_shown_as_logged(run)
        for wanted in (6, 3, 5):
            scale(run, wanted)
            assert_shown_as_logged(run)
        assert run.status()["finished"] is None, "the job is over too soon; make it longer"
        job.hurry()
        ended(run, process)

        spec = spec_of(job)
        found = account_of(run_dir(run), spec)
        logs = read_logs(run_dir(run))
        assert found.records_lost == 0
        assert found.records_twice <= chunks_unclaimed(logs) * spec.data.chunk_records
        assert found.records_trained == spec.budget_samples
        assert (found.peers_joined, found.peers_killed) == (8, 0)
        for name in ("p3", "p4", "p5"):
            assert_left_in_order(name, logs[name])
        geometry = Epochs.of(spec)
        settled = [chunk for log in logs.values() for chunk in log.done]
        assert len(settled) == len(set(settled))
        assert set(settled) == {
            ChunkId(epoch, chunk) for epoch in range(geometry.count) for chunk in geometry.order(epoch)
        }
        run.assert_nothing_is_left()


def test_a_peer_that_is_asked_to_leave_hands_back_what_it_has_not_begun(tmp_path: Path) -> None:
    job = two_epochs(tmp_path / "job")
    with cluster_run(tmp_path / "state") as run:
        run.start("cluster", "up", "--peers", "3", "--solver", str(job.solver), "--set", "lease_ttl_s=60")
        wait_for("all train", lambda: len(run.training()) == 3)
        etcd = ("--etcd", run.status()["etcd"])
        done = run.run("peer", "stop", "p1", *etcd)
        assert done.returncode == 0, done.stderr
        assert "p1 of job solver" in done.stdout
        assert "has left" in done.stdout
        again = run.run("peer", "stop", "p1", *etcd)
        assert (again.returncode, again.stdout) == (
            0,
            "no peer 'p1' is alive; nothing to do (alive: p0, p2)\n",
        )
        wait_for("its process has ended", lambda: "p1" not in run.peers())
        ends = wait_for(
            "its end is known",
            lambda: [peer["end"] for peer in run.status()["peers"] if peer["peer"] == "p1" and peer["end"]],
        )
        assert ends == ["left (exit 75)"]
        assert_left_in_order("p1", read_logs(run_dir(run))["p1"])
        assert_shown_as_logged(run)
        assert run.run("cluster", "down").returncode == 0
        for name, log in read_logs(run_dir(run)).items():
            assert_left_in_order(name, log)
        run.assert_nothing_is_left()


def claimed_before(
    chunk: ChunkId, dead: str, died_at: float, logs: Mapping[str, PeerLog], geometry: Epochs
) -> int:
    """How many chunks that come later whoever claimed this one claimed first, though it knew that its peer is dead.

    What was under way when it learned of the death is not counted. That is how long it took, in a measure that is the
    same on a machine of any speed; tests/simulation/test_reclaiming.py has it in seconds of no machine. Whoever claimed
    it may have been killed after that.
    """
    again = [
        (at, name)
        for name, log in logs.items()
        for at, its in log.claims
        if name != dead and its == chunk and at > died_at
    ]
    if not again:  # nobody claims it again that was settled: the peer died before it could write that down
        return 0
    again_at, name = min(again)
    log = logs[name]
    known = [at for at in log.at(Event.MEMBER, member=dead, old="training", new="") if at > died_at]
    # Who joined afterwards knew nothing of it; who has lost the store claims when it is back.
    if not known or log.count(Event.LEASE_LOST) or log.count(Event.BORROWED):
        return 0
    under_way = min((at for at, _ in log.claims if at > known[0]), default=again_at)
    its_place = place(chunk, geometry)
    return sum(place(its, geometry) > its_place for at, its in log.claims if under_way < at < again_at)


def place(chunk: ChunkId, geometry: Epochs) -> tuple[int, int]:
    """Where it comes in the order in which whoever trains it and others trains them."""
    return chunk.epoch, geometry.places(chunk.epoch)[chunk.chunk]


def kill_one(run: ClusterRun, rng: random.Random) -> tuple[str, float]:
    """Kill a random peer once all have trained for a while: its name, and when."""
    before = {name: peer["iteration"] for name, peer in run.training().items()}

    def trained() -> bool:
        return all(peer["iteration"] > before.get(name, 0) + 30 for name, peer in run.training().items())

    wait_for("all have trained", trained)
    victim = rng.choice(sorted(run.training()))
    pid, at = run.peers()[victim]["agent_pid"], time.monotonic()
    os.kill(pid, signal.SIGKILL)
    wait_for("the others know", lambda: victim not in run.peers(), 30.0)
    return victim, at


def test_after_kills_nothing_is_lost_and_only_what_was_in_flight_is_trained_twice(tmp_path: Path) -> None:
    job = two_epochs(tmp_path / "job")
    rng = random.Random(5)
    kills: list[tuple[str, float]] = []
    with cluster_run(tmp_path / "state") as run:
        process = run.start("cluster", "up", "--peers", "4", "--solver", str(job.solver))
        wait_for("all train", lambda: len(run.training()) == 4)
        for _ in range(3):
            kills.append(kill_one(run, rng))
            scale(run, 4)
        assert run.status()["finished"] is None, "the job is over too soon; make it longer"
        job.hurry()
        ended(run, process)

        spec = spec_of(job)
        found = account_of(run_dir(run), spec)
        logs = read_logs(run_dir(run))
        assert found.records_lost == 0
        assert found.records_trained == spec.budget_samples
        assert found.peers_killed == 3

        killed = dict(kills)
        in_flight = {name: logs[name].owned for name in killed}
        # A peer that stood still for longer than its lease lost what it had, as if it had been killed.
        lapsed = [len(log.claims) for log in logs.values() if log.count(Event.LEASE_LOST)]
        chunks = sum(map(len, in_flight.values())) + sum(lapsed) + chunks_unclaimed(logs)
        assert found.records_twice <= chunks * spec.data.chunk_records
        survivors = {name: log for name, log in logs.items() if name not in killed}
        for name, log in survivors.items():
            if not log.count(Event.LEASE_LOST):
                assert not log.owned, name

        geometry = Epochs.of(spec)
        waited = [
            claimed_before(chunk, name, at, logs, geometry) for name, at in kills for chunk in in_flight[name]
        ]
        print(f"chunks that were claimed before what a dead peer had in flight: {waited}")
        assert max(waited, default=0) <= CLAIMED_BEFORE
        run.assert_nothing_is_left()
