"""``train`` under a real mpirun or mpiexec: rank 0 brings etcd up, and the other ranks become peers of its job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gossip_caffe.cluster.state.folder import ClusterState
from gossip_caffe.cluster.supervision.control import ask
from gossip_caffe.observe.log.events import Event, read_events
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.optional import mpich, open_mpi
from tests.tiny_job import TinyJob, write_job

pytestmark = pytest.mark.needs("caffe", "etcd", "mpi4py")

OPEN_MPI = ("--enable-recovery", "--bind-to", "none", "--oversubscribe", "--allow-run-as-root")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ClusterRun]:
    with cluster_run(tmp_path / "state") as made:
        yield made


class TrainingRanks:
    """The ranks of one launch. The event logs of their peers are kept beyond the end of the command."""

    def __init__(
        self, run: ClusterRun, launcher: list[str], count: int, job: TinyJob, folder: Path, *options: str
    ) -> None:
        self.folder = folder
        self.count = count
        (folder / "events").mkdir(parents=True)
        self.log = folder / "log"
        self._state = Path(str(run.environment["GOSSIP_CAFFE_STATE"]))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *launcher,
                    "-n",
                    str(count),
                    sys.executable,
                    "-m",
                    "gossip_caffe",
                    "train",
                    str(job.solver),
                    *options,
                ],
                env=run.environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=folder,
            )

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def keep_logs(self) -> dict[str, Path]:
        """The logs of the peers so far, under names that the command does not remove."""
        kept = {}
        for log in self._state.glob("clusters/train-*/run/events/*.jsonl"):
            kept[log.stem] = self.folder / "events" / log.name
            if not kept[log.stem].exists():
                os.link(log, kept[log.stem])
        return kept

    def applied(self, log: Path, by: str = "mpi") -> int:
        return sum(
            event["event"] == Event.EXCHANGED and event["outcome"] == "applied" and event.get("by") == by
            for event in read_events(log)
        )

    def all_exchange(self) -> bool:
        logs = self.keep_logs()
        return len(logs) == self.count and all(self.applied(log) >= 2 for log in logs.values())

    def supervisor(self) -> int:
        """The process of rank 0."""
        (cluster,) = (self._state / "clusters").glob("train-*")
        return int(ask(ClusterState(cluster.name, self._state), {"do": "status"})["pid"])

    def last_events(self) -> dict[str, object]:
        """Each peer's last event."""
        logs = (self.folder / "events").glob("*.jsonl")
        return {log.stem: [event["event"] for event in read_events(log)][-1] for log in logs}

    def wait_for(self, what: str, condition: Callable[[], object]) -> None:
        wait_for(what, lambda: condition() or self.process.poll() is not None)
        assert condition(), self.said

    def ends(self) -> int:
        wait_for("the launch ends", lambda: self.process.poll() is not None)
        assert "Traceback" not in self.said, self.said
        return int(self.process.returncode)


@pytest.mark.needs("openmpi")
def test_one_of_four_ranks_is_killed_and_the_others_finish_the_job(run: ClusterRun, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", iterations=1200, pace_ms=4)
    ranks = TrainingRanks(run, [str(open_mpi().launcher), *OPEN_MPI], 4, job, tmp_path / "run")
    ranks.wait_for("weights go by MPI", ranks.all_exchange)
    logs = ranks.keep_logs()
    assert sorted(logs) == ["p0", "r1", "r2", "r3"]
    (started,) = [event for event in read_events(logs["r2"]) if event["event"] == Event.STARTED]
    os.kill(int(str(started["pid"])), signal.SIGKILL)
    job.hurry()
    ranks.ends()
    assert "trained: tiny_iter_1200.caffemodel" in ranks.said, ranks.said
    assert (ranks.folder / "tiny_iter_1200.caffemodel").exists()
    done = run.run("verify", str(ranks.folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 lost" in done.stdout
    run.assert_nothing_is_left()


@pytest.mark.needs("mpich")
def test_all_ranks_leave_in_order_when_mpiexec_is_terminated(run: ClusterRun, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", iterations=100_000, pace_ms=4)
    launcher = [str(mpich().launcher), "-genv", "MPI4PY_LIBMPI", str(mpich().library)]
    ranks = TrainingRanks(run, launcher, 3, job, tmp_path / "run")
    ranks.wait_for("weights go by MPI", ranks.all_exchange)
    ranks.process.terminate()
    ranks.ends()
    assert ranks.last_events() == dict.fromkeys(("p0", "r1", "r2"), Event.LEFT), ranks.said
    assert "interrupted at iteration" in ranks.said, ranks.said
    run.assert_nothing_is_left()


@pytest.mark.needs("openmpi")
def test_a_signal_to_rank_0_lets_all_ranks_leave_in_order(run: ClusterRun, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", iterations=100_000, pace_ms=4)
    ranks = TrainingRanks(run, [str(open_mpi().launcher), *OPEN_MPI], 2, job, tmp_path / "run")
    ranks.wait_for("weights go by MPI", ranks.all_exchange)
    os.kill(ranks.supervisor(), signal.SIGTERM)
    ranks.ends()
    assert ranks.last_events() == dict.fromkeys(("p0", "r1"), Event.LEFT), ranks.said
    assert "interrupted at iteration" in ranks.said, ranks.said
    assert "p0 left (exit 75)" in ranks.said, ranks.said  # although the other rank was still training
    run.assert_nothing_is_left()


@pytest.mark.needs("openmpi")
def test_when_the_process_of_rank_0_is_killed_the_others_leave(run: ClusterRun, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", iterations=100_000, pace_ms=4)
    ranks = TrainingRanks(run, [str(open_mpi().launcher), *OPEN_MPI], 2, job, tmp_path / "run")
    ranks.wait_for("weights go by MPI", ranks.all_exchange)
    os.kill(ranks.supervisor(), signal.SIGKILL)
    ranks.ends()
    assert "rank 0 was killed, and its etcd with it: this rank leaves" in ranks.said, ranks.said
    run.assert_nothing_is_left()


@pytest.mark.needs("openmpi")
def test_an_error_of_rank_0_ends_the_launch_with_its_line(run: ClusterRun, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", iterations=100)
    launcher = [str(open_mpi().launcher), *OPEN_MPI]
    ranks = TrainingRanks(run, launcher, 2, job, tmp_path / "run", "--peers", "3")
    assert ranks.ends() != 0
    assert "--peers 3: each of the 2 ranks that MPI has started is one peer; leave --peers out" in ranks.said
    run.assert_nothing_is_left()
