"""Roles in etcd, tried as their users would: an owner, two peers that train, and a viewer."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.etcd_binary import find_etcd
from gossip_caffe.errors import ExitCode
from gossip_caffe.membership.etcd.etcd_channel import EtcdConnection
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.observe.log.events import read_events
from gossip_caffe.security.security import Security
from gossip_caffe.wire import etcd_pb2 as pb
from tests.cluster_run import ClusterRun, cluster_run, one_line, wait_for
from tests.tiny_job import write_job
from tests.tls_files import Authority

pytestmark = pytest.mark.needs("caffe", "etcd", "cryptography")
JOB = "tiny"
PEERS = ("p0", "p1")
STUDY = """name = "lr"
solver = "solver.prototxt"
trials = 1
samples = 1600
tests = 2
objective = "accuracy"
sampler = { kind = "random" }
[space]
"solver.base_lr" = { float = [1e-2, 1e-1], log = true }
"""


@dataclass
class Town:
    """An etcd that authenticates, and people with certificates."""

    run: ClusterRun
    folder: Path
    endpoint: str

    def place(self, user: str) -> list[str]:
        return ["--etcd", f"https://{self.endpoint}", "--tls-dir", str(self.folder / user)]

    def does(self, user: str, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run.run(*words, *self.place(user))

    def done(self, user: str, *words: str) -> str:
        done = self.does(user, *words)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("town")
    authority = Authority.make()
    authority.issue(folder / "etcd", "etcd", "127.0.0.1")
    for user in ("root", "olga", "vera", *PEERS):
        authority.issue(folder / user, user)
    with cluster_run(folder / "state") as run:
        address = folder / "address"
        server = run.start(
            *("etcd", "start", "--listen", "127.0.0.1:0", "--data-dir", str(folder / "data")),
            *("--address-file", str(address), "--tls-dir", str(folder / "etcd")),
        )
        try:
            wait_for("etcd answers", address.exists)
            town = Town(run, folder, address.read_text().strip())
            town.done("root", "etcd", "authenticate")
            users = ("--peer", "p0", "--peer", "p1", "--owner", "olga", "--viewer", "vera")
            town.done("root", "etcd", "roles", JOB, *users, "--apply")
            yield town
        finally:
            server.terminate()
            assert server.wait(60) == 0


def test_roles_are_applied_once_and_put_right(town: Town) -> None:
    again = town.done("root", "etcd", "roles", JOB, "--peer", "p0", "--apply")
    assert "all roles and users are as they should be" in again
    record = json.loads(town.done("root", "etcd", "roles", JOB, "--viewer", "vic", "--apply", "--json"))
    assert record["applied"] == [
        "user vic made, without a password: for certificates with this CN",
        f"user vic has the role gossip-caffe-{JOB}-viewer",
    ]
    assert record["authenticates"]
    assert "authenticates its clients already" in town.done("root", "etcd", "authenticate")


def test_a_permission_that_a_role_should_not_have_is_taken_back(town: Town) -> None:
    town.done("root", "etcd", "roles", "widened", "--apply")
    role = "gossip-caffe-widened-peer"
    asyncio.run(_widen(town, role, JobKeys("widened").spec))
    changes = town.done("root", "etcd", "roles", "widened", "--apply")
    assert f"role {role} may no longer use the keys from {JobKeys('widened').spec}" in changes
    assert "all roles and users are as they should be" in town.done(
        "root", "etcd", "roles", "widened", "--apply"
    )


async def _widen(town: Town, role: str, key: str) -> None:
    root = Security(Authority.files(town.folder / "root"))
    etcd = EtcdConnection([town.endpoint], SystemClock(), random.Random(1), security=root)
    perm = pb.Permission(permType=pb.Permission.READWRITE, key=key.encode())
    request = pb.AuthRoleGrantPermissionRequest(name=role, perm=perm)
    await etcd.call("Auth/RoleGrantPermission", request, pb.AuthChangedResponse)
    await etcd.close()


def test_the_commands_of_etcdctl_make_the_same_roles(town: Town) -> None:
    """They are run as they are printed, by a shell; --apply then finds nothing to change."""
    job = "by-hand"
    shown = json.loads(
        town.run.run("etcd", "roles", job, "--peer", "p0", "--owner", "new one", "--json").stdout
    )
    assert "etcdctl user add p0 --no-password" in shown["commands"]
    folder = town.folder / "root"
    control = (
        f"{find_etcd().with_name('etcdctl')} --endpoints=https://{town.endpoint} --cacert={folder}/ca.crt "
        f"--cert={folder}/tls.crt --key={folder}/tls.key"
    )
    script = "\n".join(line.replace("etcdctl", control, 1) for line in shown["commands"])
    subprocess.run(["sh", "-c", script], check=False, capture_output=True)  # p0 is there already
    again = town.done("root", "etcd", "roles", job, "--peer", "p0", "--owner", "new one", "--apply")
    assert "all roles and users are as they should be" in again


def test_only_root_changes_roles_and_nobody_locks_itself_out(town: Town) -> None:
    by_peer = town.does("p0", "etcd", "roles", JOB, "--owner", "p0", "--apply")
    assert by_peer.returncode == ExitCode.UNREACHABLE
    assert "'p0'" in one_line(by_peer)
    locked = town.does("olga", "etcd", "authenticate")
    assert locked.returncode == ExitCode.USAGE
    assert "'olga'" in one_line(locked)


def test_doctor_says_whether_a_user_may_write(town: Town) -> None:
    for user, may in (("p0", True), ("vera", False)):
        findings = {found["what"]: found for found in json.loads(town.does(user, "doctor", "--json").stdout)}
        assert findings["etcd: users"]["good"]
        assert findings["etcd: writes"]["good"] == may
        assert ("etcd: history" in findings) == may


def test_two_peers_train_under_their_role_and_a_viewer_looks_on(town: Town, tmp_path: Path) -> None:
    """The job has a Python layer: its code runs, because etcd lets nobody but the owner choose it."""
    job = write_job(tmp_path / "job", records=4000, batch=16, iterations=3000, pace_ms=80)
    create = ("job", "create", JOB, "--solver", str(job.solver))
    refused = town.does("p0", *create)
    assert refused.returncode == ExitCode.UNREACHABLE
    for word in ("'p0'", JobKeys(JOB).spec, f"gossip-caffe-{JOB}-owner"):
        assert word in one_line(refused)
    town.done("olga", *create)
    start = ("peer", "start", "--job", JOB, "--run-dir", str(tmp_path / "run"))
    peers = [town.run.start(*start, "--name", name, *town.place(name)) for name in PEERS]
    try:
        logs = [tmp_path / "run" / "events" / f"{name}.jsonl" for name in PEERS]
        wait_for("both train", lambda: all(_has(log, "exchanged") for log in logs))
        for words in (
            ("status", "--job", JOB),
            ("shards", "show", "--job", JOB),
            ("peer", "list", "--job", JOB),
            ("checkpoint", "list", "--job", JOB),
            ("job", "show", JOB),
        ):
            assert town.done("vera", *words)
        several = town.does("vera", "status")
        assert several.returncode == ExitCode.USAGE
        assert "--job NAME" in one_line(several)
        stops = town.does("vera", "peer", "stop", "p0", "--job", JOB)
        assert stops.returncode == ExitCode.UNREACHABLE
        for word in ("'vera'", JobKeys(JOB).leave("p0"), f"gossip-caffe-{JOB}-peer"):
            assert word in one_line(stops)
        job.hurry()
        for peer in peers:
            assert peer.wait(180) == 0
    finally:
        for peer in peers:
            peer.kill()
            peer.wait()
    verified = town.run.run("verify", str(tmp_path / "run"))
    assert verified.returncode == 0, verified.stdout
    assert json.loads(town.done("vera", "status", "--job", JOB, "--json"))["finished"]


@pytest.mark.needs("optuna")
def test_workers_of_a_study_create_its_trials_under_their_role(town: Town, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", noise=130.0)
    study = job.folder / "study.toml"
    study.write_text(f'store = "file://{tmp_path}/store"\n{STUDY}')
    users = ("--peer", "p0", "--owner", "olga", "--viewer", "vera")
    town.done("root", "etcd", "roles", "lr", "--study", *users, "--apply")
    refused = town.does("p0", "tune", "create", str(study), "--unchecked")
    assert refused.returncode == ExitCode.UNREACHABLE
    assert "gossip-caffe-study-lr-owner" in one_line(refused)
    town.done("olga", "tune", "create", str(study), "--unchecked")
    town.done("p0", "tune", "work", "--study", "lr", "--worker", "p0", "--run-dir", str(tmp_path / "run"))
    shown = json.loads(town.done("vera", "tune", "status", "--study", "lr", "--json"))
    assert [trial["state"] for trial in shown["trials"]] == ["complete"]
    assert "--study NAME" in one_line(town.does("vera", "tune", "status"))


def _has(log: Path, event: str) -> bool:
    return log.exists() and any(entry["event"] == event for entry in read_events(log))
