"""Peers that a real mpirun or mpiexec has started: their weights go by MPI, until a rank dies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.observe.log.events import Event, read_events
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.optional import mpich, open_mpi
from tests.tiny_job import TinyJob, write_job

pytestmark = pytest.mark.needs("caffe", "etcd", "mpi4py")

OPEN_MPI = ("--enable-recovery", "--bind-to", "none", "--oversubscribe", "--allow-run-as-root")
PEER = """
import sys
from gossip_caffe.system.launch import launch_in
import os, runpy
name = f"r{launch_in(os.environ).rank}"
sys.argv = ["gossip-caffe", "peer", "start", "--name", name, *sys.argv[1:]]
runpy.run_module("gossip_caffe", run_name="__main__")
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ClusterRun]:
    with cluster_run(tmp_path / "state") as made:
        yield made


class Launch:
    """The ranks r0, r1 … of one launch, which train a job."""

    def __init__(
        self,
        run: ClusterRun,
        etcd: EtcdServer,
        job: TinyJob,
        launcher: list[str],
        folder: Path,
        count: int,
        *settings: str,
    ) -> None:
        self.name = f"mpi-{run.marker[:8]}"
        self.folder = folder
        self.etcd = etcd.endpoint
        chosen = [part for setting in settings for part in ("--set", setting)]
        done = run.run(
            "job",
            "create",
            self.name,
            "--solver",
            str(job.solver),
            "--etcd",
            self.etcd,
            "--unchecked",
            *chosen,
        )
        assert done.returncode == 0, done.stderr
        folder.mkdir()
        options = ["--job", self.name, "--etcd", self.etcd, "--run-dir", str(folder)]
        options += ["--allow-code", "--transport", "mpi"]
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*launcher, "-n", str(count), sys.executable, "-c", PEER, *options],
                env=run.environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def events(self, rank: int, kind: Event) -> list[dict[str, object]]:
        log = self.folder / "events" / f"r{rank}.jsonl"
        return [event for event in read_events(log) if event["event"] == kind] if log.exists() else []

    def applied(self, rank: int, by: str | None, partner: str = "") -> int:
        """The exchanges that a rank has applied, by MPI or not."""
        return sum(
            event["outcome"] == "applied" and event.get("by") == by and partner in str(event["partner"])
            for event in self.events(rank, Event.EXCHANGED)
        )

    def rounds(self, rank: int, members: int) -> int:
        """The rounds of so many members that a rank has applied."""
        return sum(
            event["outcome"] == "applied" and event["members"] == members
            for event in self.events(rank, Event.ROUND)
        )

    def pid(self, rank: int) -> int:
        (started,) = self.events(rank, Event.STARTED)
        return int(str(started["pid"]))

    def wait_for(self, what: str, condition: Callable[[], object]) -> None:
        wait_for(what, lambda: condition() or self.process.poll() is not None)
        assert condition(), self.said

    def verified(self, run: ClusterRun) -> str:
        done = run.run("verify", str(self.folder))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.mark.needs("openmpi")
def test_three_ranks_train_one_is_killed_and_the_others_finish_over_grpc(
    run: ClusterRun, etcd: EtcdServer, tmp_path: Path
) -> None:
    job = write_job(tmp_path / "job", iterations=1500, pace_ms=4)
    launch = Launch(run, etcd, job, [str(open_mpi().launcher), *OPEN_MPI], tmp_path / "run", 3)
    launch.wait_for("weights go by MPI", lambda: all(launch.applied(rank, "mpi") >= 3 for rank in range(3)))
    os.kill(launch.pid(2), 9)
    launch.wait_for(
        "the others give MPI up",
        lambda: all(launch.events(rank, Event.MPI)[-1]["used"] is False for rank in range(2)),
    )
    job.hurry()
    launch.wait_for("the others exchange over gRPC", lambda: launch.applied(0, None, "r1") > 0)
    wait_for("the job is finished", lambda: launch.process.poll() is not None)
    said = launch.said
    assert [line for line in said.splitlines() if "Traceback" in line] == [], said
    assert said.count("from now on weights go over gRPC") == 2, said
    assert [len(launch.events(rank, Event.LEFT)) for rank in range(3)] == [1, 1, 0], said
    assert "0 lost" in launch.verified(run)
    run.assert_nothing_is_left()


@pytest.mark.needs("openmpi")
def test_ranks_train_in_rounds_one_is_killed_and_the_others_go_on(
    run: ClusterRun, etcd: EtcdServer, tmp_path: Path
) -> None:
    job = write_job(tmp_path / "job", iterations=500, pace_ms=4)
    launcher = [str(open_mpi().launcher), *OPEN_MPI]
    launch = Launch(run, etcd, job, launcher, tmp_path / "run", 3, "strategy=sync", "sync_start_peers=3")
    launch.wait_for("rounds of all", lambda: all(launch.rounds(rank, 3) >= 5 for rank in range(3)))
    assert launch.said.count("weights go to the other ranks by MPI") == 3
    os.kill(launch.pid(2), 9)
    launch.wait_for("rounds of the others", lambda: all(launch.rounds(rank, 2) >= 5 for rank in range(2)))
    job.hurry()
    wait_for("the job is finished", lambda: launch.process.poll() is not None)
    said = launch.said
    assert [line for line in said.splitlines() if "Traceback" in line] == [], said
    assert [len(launch.events(rank, Event.STARTED)) for rank in range(3)] == [1, 1, 1], said
    assert "0 lost" in launch.verified(run)
    run.assert_nothing_is_left()


@pytest.mark.needs("mpich")
def test_ranks_of_mpich_train_and_end_together(run: ClusterRun, etcd: EtcdServer, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", iterations=600, pace_ms=4)
    launcher = [str(mpich().launcher), "-genv", "MPI4PY_LIBMPI", str(mpich().library)]
    launch = Launch(run, etcd, job, launcher, tmp_path / "run", 2)
    launch.wait_for("weights go by MPI", lambda: all(launch.applied(rank, "mpi") >= 3 for rank in range(2)))
    job.hurry()
    wait_for("the job is finished", lambda: launch.process.poll() is not None)
    assert launch.process.returncode == 0, launch.said
    assert "MPICH" in launch.said
    assert "over gRPC" not in launch.said
    assert "0 lost" in launch.verified(run)
    run.assert_nothing_is_left()
