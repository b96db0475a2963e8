"""A rolling restart: each peer is replaced, one after the other, and no record is lost or trained twice."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.errors import ExitCode
from gossip_caffe.observe.checker.verdict import verdict_of
from tests.cluster_run import ClusterRun, wait_for
from tests.tiny_job import write_job


@pytest.mark.needs("caffe", "etcd")
def test_peers_are_replaced_one_by_one_and_no_record_is_lost_or_trained_twice(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    job, run = write_job(tmp_path / "job", iterations=1600, pace_ms=40), ClusterRun(tmp_path / "state")
    create = ("job", "create", "rolling", "--solver", str(job.solver), "--etcd", etcd.endpoint)
    assert run.run(*create, "--unchecked").returncode == 0

    def started(name: str) -> subprocess.Popen[bytes]:
        options = (
            "--job",
            "rolling",
            "--etcd",
            etcd.endpoint,
            "--run-dir",
            str(tmp_path / "run"),
            "--allow-code",
        )
        return run.start("peer", "start", "--name", name, *options)

    def training() -> set[str]:
        said = run.run("peer", "list", "--job", "rolling", "--etcd", etcd.endpoint, "--json").stdout
        return {peer["peer"] for peer in json.loads(said) if peer["state"] == "training"}

    peers = {name: started(name) for name in ("a", "b")}
    try:
        wait_for("both train", lambda: training() == {"a", "b"})
        for name in ("a", "b"):
            peers[name].send_signal(signal.SIGTERM)
            assert peers[name].wait(60) == ExitCode.LEFT
            peers[name] = started(name)
            wait_for("both train again", lambda: training() == {"a", "b"})
        job.hurry()
        assert [peer.wait(120) for peer in peers.values()] == [ExitCode.OK, ExitCode.OK]
    finally:
        for peer in peers.values():
            peer.kill()
    verdict = verdict_of(tmp_path / "run")
    assert verdict.broken == ()
    assert verdict.counters.records_twice == 0
