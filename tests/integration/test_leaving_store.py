"""A peer that leaves takes its last checkpoint to the job's store: its disk may go with the machine."""

from __future__ import annotations

import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest

from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.errors import ExitCode
from tests.cluster_run import ClusterRun, wait_for
from tests.tiny_job import write_job


def has(file: Path, text: str) -> bool:
    return text in file.read_text()


@pytest.mark.needs("caffe", "etcd")
def test_a_job_that_lost_its_only_machine_trains_nothing_twice_if_the_peer_had_time_to_leave(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    job, run = write_job(tmp_path / "job", iterations=4000, pace_ms=10), ClusterRun(tmp_path / "state")
    create = ("job", "create", "leaving", "--solver", str(job.solver), "--etcd", etcd.endpoint, "--unchecked")
    made = run.run(*create, "--set", f"checkpoint_store=file://{tmp_path / 'store'}")
    assert made.returncode == 0, made.stderr
    for turn, trained in ((1, "founded the job"), (2, "the job goes on from checkpoint")):
        log = tmp_path / f"peer{turn}.log"
        options = ("--job", "leaving", "--etcd", etcd.endpoint, "--run-dir", str(tmp_path / f"disk{turn}"))
        with log.open("w") as output:
            peer = subprocess.Popen(
                run.command("peer", "start", "--name", f"p{turn}", "--allow-code", *options),
                env=run.environment,
                stdout=output,
                stderr=output,
            )
        try:
            wait_for("the peer trains", partial(has, log, "training (synced"))
            events = tmp_path / f"disk{turn}" / "events" / f"p{turn}.jsonl"
            wait_for("it has trained", partial(has, events, '"trained"'))
            peer.send_signal(signal.SIGTERM)
            assert peer.wait(60) == ExitCode.LEFT, log.read_text()
        finally:
            peer.kill()
        assert trained in log.read_text()
    assert "trained again" not in log.read_text()
