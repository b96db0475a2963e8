"""The doctor at a real etcd and a real job: what is in order is ok, and each fault is one line with its remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.errors import ExitCode
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.tiny_job import TinyJob, write_job

pytestmark = pytest.mark.integration


def entries(run: ClusterRun, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = run.run("doctor", "--json", *arguments)
    assert not done.stderr, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return done.returncode, {entry["what"]: entry for entry in found}


def created(run: ClusterRun, etcd: EtcdServer, job: TinyJob, name: str, *settings: str) -> str:
    made = run.run("job", "create", name, "--solver", str(job.solver), "--etcd", etcd.endpoint, *settings)
    assert made.returncode == 0, made.stderr
    return made.stdout


def test_an_etcd_and_a_job_that_are_in_order(tmp_path: Path, etcd: EtcdServer) -> None:
    job, store = write_job(tmp_path / "job"), tmp_path / "store"
    store.mkdir()
    with cluster_run(tmp_path / "state") as run:
        said = created(run, etcd, job, "doctored", "--set", f"checkpoint_store=file://{store}")
        assert "note:" not in said
        code, found = entries(run, "--etcd", etcd.endpoint, "--job", "doctored")
        assert code == 0, found
        assert found["etcd: writes"]["good"]
        assert found["etcd: history"]["good"]
        assert "version 3." in found[f"etcd {etcd.endpoint}"]["found"]
        assert "quota" in found[f"etcd {etcd.endpoint}: space"]["found"]
        assert "800 records, the job's" in found["job: data of layer data"]["found"]
        assert "can be written" in found["job: checkpoint_store"]["found"]
        assert not list(store.rglob("doctor-*")), "the doctor leaves nothing there"
        assert "weights" in found["job: memory"]["found"]


def test_what_a_job_lacks_here_is_named(tmp_path: Path, etcd: EtcdServer) -> None:
    job = write_job(tmp_path / "job")
    with cluster_run(tmp_path / "state") as run:
        assert "note: job lacking has no checkpoint_store" in created(run, etcd, job, "lacking")
        moved = tmp_path / "moved"
        shutil.copytree(job.train, moved / "train")
        shutil.rmtree(job.train)
        code, found = entries(run, "--etcd", etcd.endpoint, "--job", "lacking")
        assert code == ExitCode.ENVIRONMENT
        assert not found["job: data of layer data"]["good"]
        assert found["job: data of layer data"]["remedy"]
        assert not found["job: checkpoint_store"]["good"]
        assert not found["job: checkpoint_store"]["needed"]
        root = f"{job.folder}={moved}"
        code, found = entries(run, "--etcd", etcd.endpoint, "--job", "lacking", "--data-root", root)
        assert code == 0
        assert found["job: data of layer data"]["good"]


def test_an_etcd_or_a_job_that_is_not_there(tmp_path: Path, etcd: EtcdServer) -> None:
    with cluster_run(tmp_path / "state") as run:
        code, found = entries(run, "--etcd", "127.0.0.1:1")
        assert not found["etcd 127.0.0.1:1"]["good"]
        assert code == 0, "a machine may be in order without an etcd"
        code, found = entries(run, "--etcd", etcd.endpoint, "--job", "no-such")
        assert code == ExitCode.ENVIRONMENT
        assert "no-such" in found["job"]["found"]


def test_living_peers_are_called_on_both_ports_and_a_stopped_one_is_named(
    tmp_path: Path, etcd: EtcdServer
) -> None:
    job = write_job(tmp_path / "job", iterations=1_000_000, pace_ms=20)
    with cluster_run(tmp_path / "state") as run:
        created(run, etcd, job, "called", "--set", "checkpoint_every_samples=800")
        where = ("--etcd", etcd.endpoint, "--job", "called")
        folder = ("--run-dir", str(tmp_path / "run"), "--allow-code")
        peer = run.start("peer", "start", "--name", "p0", *where, *folder)

        held = tmp_path / "run" / "checkpoints" / "p0"
        wait_for("the peer holds a checkpoint", lambda: len(list(held.glob("*/manifest*"))) > 1)
        _, found = entries(run, *where, "--allow-code")
        assert found["peer p0"]["good"], found
        assert "second port" in found["peer p0"]["found"]
        assert found["job: memory"]["good"]
        peer.terminate()
        peer.wait(30.0)
