"""A start that is refused leaves the run folder of whoever lives there as it was."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.errors import ExitCode
from gossip_caffe.observe.log.events import read_events
from tests.cluster_run import ClusterRun, cluster_run, one_line, wait_for
from tests.tiny_job import write_job


@pytest.fixture
def run(tmp_path: Path, etcd: EtcdServer) -> Iterator[ClusterRun]:
    """Two jobs; p0 trains the first of them."""
    job = write_job(tmp_path / "job", records=9600, batch=16, iterations=1_000_000, pace_ms=20)
    with cluster_run(tmp_path / "state") as run:
        for name in ("first", "second"):
            create = ("job", "create", named(run, name), "--solver", str(job.solver), "--etcd", etcd.endpoint)
            done = run.run(*create, "--set", "lease_ttl_s=60")
            assert done.returncode == 0, done.stderr
        yield run


def named(run: ClusterRun, job: str) -> str:
    """Every test has jobs of its own in the etcd of all tests."""
    return f"{job}-{run.marker[:8]}"


def start(run: ClusterRun, etcd: EtcdServer, job: str) -> list[str]:
    words = ("peer", "start", "--name", "p0", "--job", named(run, job), "--etcd", etcd.endpoint)
    return [*words, "--run-dir", str(run.folder / "run"), "--engine", "numpy", "--allow-code"]


def events(run: ClusterRun) -> list[str]:
    path = run.folder / "run" / "events" / "p0.jsonl"
    return [str(event["event"]) for event in read_events(path)] if path.exists() else []


@pytest.mark.parametrize("job", ["first", "second"])
def test_a_second_start_of_a_living_peers_name_changes_nothing_of_it(
    run: ClusterRun, etcd: EtcdServer, job: str
) -> None:
    living = run.start(*start(run, etcd, "first"))
    try:
        wait_for("p0 trains", lambda: events(run).count("done") > 3)
        checkpoints = run.folder / "run" / "checkpoints" / "p0"
        unfinished = checkpoints / ".unfinished-00000000000100-p0-aaaa"
        unfinished.mkdir()
        (unfinished / "model.caffemodel").write_bytes(b"half")

        done = run.run(*start(run, etcd, job))

        assert done.returncode == ExitCode.CONFLICT, done.stderr
        assert f"a peer 'p0' is running already in {run.folder / 'run'} (pid {living.pid});" in one_line(done)
        assert (unfinished / "model.caffemodel").read_bytes() == b"half"
        more = len(events(run))
        wait_for("p0 trains on", lambda: events(run)[more:].count("done") > 1)
    finally:
        living.terminate()
        assert living.wait(120) == ExitCode.LEFT
    assert events(run).count("started") == events(run).count("left") == 1
    verified = run.run("verify", str(run.folder / "run"))
    assert verified.returncode == 0, verified.stdout
    assert list((run.folder / "run" / "locks").iterdir()) == []


def test_a_name_is_free_again_when_its_process_was_killed(run: ClusterRun, etcd: EtcdServer) -> None:
    killed = run.start(*start(run, etcd, "first"))
    wait_for("p0 trains", lambda: events(run).count("done") > 3)
    killed.kill()
    killed.wait()
    # Another job: in this one its lease lives on for a while, and the name with it.
    again = run.start(*start(run, etcd, "second"))
    try:
        wait_for("it trains", lambda: events(run).count("started") == 2 and events(run)[-1] != "started")
    finally:
        again.terminate()
        assert again.wait(120) == ExitCode.LEFT


@pytest.mark.parametrize(
    "prepared", ["run", "run/events", "run/checkpoints", "run/locks", "run/events/p0.jsonl"]
)
def test_a_run_folder_that_was_prepared_is_refused_and_what_it_leads_to_unchanged(
    run: ClusterRun, etcd: EtcdServer, tmp_path: Path, prepared: str
) -> None:
    victim = tmp_path / "victim"
    path = run.folder / prepared
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        victim.write_text("precious")
        path.symlink_to(victim)
    elif prepared == "run":
        path.mkdir()
        path.chmod(0o777)
    else:
        victim.mkdir()
        path.symlink_to(victim)

    done = run.run(*start(run, etcd, "first"))

    assert done.returncode == ExitCode.ENVIRONMENT, done.stderr
    assert "give another --run-dir" in one_line(done)
    if victim.is_dir():
        assert list(victim.iterdir()) == []
    elif victim.exists():
        assert victim.read_text() == "precious"


def test_what_a_peer_writes_is_for_nobody_else(run: ClusterRun, etcd: EtcdServer) -> None:
    (run.folder / "shared").mkdir(parents=True)
    (run.folder / "shared").chmod(0o1777)  # what is above a run folder is judged by nobody
    words = start(run, etcd, "first")
    words[words.index("--run-dir") + 1] = "gossip-caffe-run"
    peer = subprocess.Popen(run.command(*words), env=run.environment, cwd=run.folder / "shared", umask=0)
    folder = run.folder / "shared" / "gossip-caffe-run"
    try:
        wait_for("it keeps a checkpoint", lambda: list(folder.glob("checkpoints/p0/*/manifest.json")))
    finally:
        peer.terminate()
        assert peer.wait(120) == ExitCode.LEFT
    found = [folder, *folder.rglob("*")]
    assert len(found) > 6
    assert [path for path in found if os.lstat(path).st_mode & 0o077] == []
