"""docs/deploy/etcd-care.md: a backup of etcd is made while a job trains, and the job goes on in the restored one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from gossip_caffe.cluster.etcd.etcd_binary import find_etcd
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.errors import ExitCode
from gossip_caffe.observe.checker.verdict import verdict_of
from tests.cluster_run import ClusterRun, wait_for
from tests.tiny_job import write_job


def etcdctl(*words: str) -> str:
    """Run etcdctl, which is beside etcd."""
    done = subprocess.run(
        [find_etcd().with_name("etcdctl"), *words],
        env=os.environ | {"ETCDCTL_API": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.needs("caffe", "etcd")
def test_a_job_goes_on_in_an_etcd_that_was_restored_from_a_backup(tmp_path: Path) -> None:
    job, run = write_job(tmp_path / "job", iterations=2000, pace_ms=20), ClusterRun(tmp_path / "state")
    etcd, backup = EtcdServer(tmp_path / "etcd"), tmp_path / "etcd.db"
    etcd.start()
    address = etcd.endpoint
    options = ("--job", "kept", "--etcd", address, "--run-dir", str(tmp_path / "run"), "--allow-code")
    logs = tmp_path / "run" / "events" / "a.jsonl"
    try:
        create = ("job", "create", "kept", "--solver", str(job.solver), "--etcd", address)
        assert run.run(*create, "--unchecked", "--set", "checkpoint_every_samples=640").returncode == 0
        peer = run.start("peer", "start", "--name", "a", *options)
        try:
            wait_for("a checkpoint is there", lambda: logs.exists() and '"checkpointed"' in logs.read_text())
            etcdctl("--endpoints", address, "snapshot", "save", str(backup))
            etcdctl("snapshot", "status", str(backup))
            made = logs.read_text().count('"checkpointed"')
            wait_for("another came after it", lambda: logs.read_text().count('"checkpointed"') > made)
            peer.send_signal(signal.SIGTERM)
            assert peer.wait(60) == ExitCode.LEFT
        finally:
            peer.kill()
        etcd.stop()

        restored = ("--data-dir", str(tmp_path / "etcd-new"), "--name", "local")
        members = "unix://members:1"
        more = ("--initial-advertise-peer-urls", members, "--initial-cluster", f"local={members}")
        etcdctl("snapshot", "restore", str(backup), *restored, *more)
        shutil.move(tmp_path / "etcd", tmp_path / "etcd-old")
        shutil.move(tmp_path / "etcd-new", tmp_path / "etcd")
        etcd.start()
        job.hurry()
        assert run.start("peer", "start", "--name", "b", *options).wait(120) == ExitCode.OK
    finally:
        etcd.stop()
    assert verdict_of(tmp_path / "run").broken == ()
