"""Output is not the training: whatever becomes of a terminal, a pipe or a log, the weights are written."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gossip_caffe.cluster.state.folder import ClusterState
from gossip_caffe.cluster.supervision.control import ask
from gossip_caffe.errors import ExitCode, GossipCaffeError
from tests.cluster_run import ClusterRun, cluster_run, wait_for
from tests.tiny_job import TinyJob, write_job

pytestmark = pytest.mark.needs("caffe", "etcd")

QUICK = ("--engine", "numpy")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ClusterRun]:
    with cluster_run(tmp_path / "state") as made:
        yield made


@pytest.fixture
def endless(tmp_path: Path) -> TinyJob:
    return write_job(tmp_path / "job", iterations=10_000_000, pace_ms=20)


def it_trains(run: ClusterRun) -> bool:
    """Whether a peer of any cluster has made some iterations, asked where nothing can be read."""
    for folder in run.folder.glob("clusters/*"):
        try:
            status = ask(ClusterState(folder.name, run.folder), {"do": "status"})
        except GossipCaffeError:
            continue  # it comes up just now
        if any(peer.get("status", {}).get("iteration", 0) > 20 for peer in status["peers"]):
            return True
    return False


def restored_signals() -> None:
    """A shell that runs something in the background lets it ignore Ctrl-C: not here."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def shell(run: ClusterRun, job: TinyJob, script: str) -> subprocess.Popen[bytes]:
    """Run a line of bash, with $TRAIN as the command, in a session of its own."""
    train = " ".join(run.command("train", "solver.prototxt", *QUICK))
    return subprocess.Popen(
        ["bash", "-c", script.replace("TRAIN", train)],
        env=run.environment,
        cwd=job.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=restored_signals,  # noqa: PLW1509 - no other thread holds a lock
    )


def fill(writer: int) -> None:
    """Let not a byte more go into a pipe."""
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writer, True)


def ended_with(process: subprocess.Popen[bytes], job: TinyJob) -> int:
    wait_for("the shell has ended", lambda: process.poll() is not None, 90.0)
    return int((job.folder / "rc").read_text())


def test_ctrl_c_that_ends_tee_too_leaves_the_weights_and_its_exit_code(
    run: ClusterRun, endless: TinyJob
) -> None:
    process = shell(run, endless, "TRAIN 2>&1 | tee log; echo ${PIPESTATUS[0]} > rc")
    wait_for("it trains", lambda: it_trains(run))
    os.killpg(process.pid, signal.SIGINT)
    assert ended_with(process, endless) == ExitCode.INTERRUPTED
    assert list(endless.folder.glob("tiny_iter_*.caffemodel"))
    run.assert_nothing_is_left()


@pytest.mark.parametrize(
    "reader", ["| head -2", "> /dev/full", "2>&- >&-", "| true", "2>&1 | (exec <&-; sleep 1)"]
)
def test_a_training_goes_on_to_its_end_when_nobody_hears_it(
    run: ClusterRun, tmp_path: Path, reader: str
) -> None:
    job = write_job(tmp_path / "job", iterations=1500)
    process = shell(run, job, f"TRAIN {reader}; echo ${{PIPESTATUS[0]}} > rc")
    assert ended_with(process, job) == ExitCode.OK
    assert (job.folder / "tiny_iter_1500.caffemodel").exists()
    run.assert_nothing_is_left()


def test_a_reader_that_sleeps_makes_no_training_wait(run: ClusterRun, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", iterations=1500)
    reader, writer = os.pipe()
    fill(writer)
    command = run.command("train", "solver.prototxt", *QUICK)
    process = subprocess.Popen(command, env=run.environment, cwd=job.folder, stdout=writer, stderr=writer)
    wait_for("it has ended", lambda: process.poll() is not None, 120.0)
    assert process.returncode == ExitCode.OK
    assert (job.folder / "tiny_iter_1500.caffemodel").exists()
    os.close(reader)
    os.close(writer)


def test_a_terminal_that_closes_ends_no_training_and_leaves_a_snapshot(
    run: ClusterRun, endless: TinyJob
) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        run.command("train", "solver.prototxt", *QUICK),
        env={**run.environment, "TERM": "xterm"},
        cwd=endless.folder,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    wait_for("it trains", lambda: it_trains(run))
    os.close(master)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)  # by the shell, and by the kernel
    (snapshot,) = wait_for("a snapshot", lambda: list(endless.folder.glob("tiny_iter_*.solverstate")))
    wait_for("it trains on", lambda: it_trains(run))
    process.send_signal(signal.SIGTERM)
    wait_for("it has ended", lambda: process.poll() is not None, 60.0)
    assert process.returncode == ExitCode.LEFT
    assert set(endless.folder.glob("tiny_iter_*.solverstate")) > {snapshot}
    run.assert_nothing_is_left()


def test_sighup_that_is_ignored_at_the_start_stays_ignored(run: ClusterRun, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", iterations=3000)
    process = shell(run, job, "trap '' HUP; TRAIN > log 2>&1 & echo $! > pid; wait $!; echo $? > rc")
    wait_for("it trains", lambda: it_trains(run))
    os.kill(int((job.folder / "pid").read_text()), signal.SIGHUP)
    assert ended_with(process, job) == ExitCode.OK
    assert (job.folder / "tiny_iter_3000.caffemodel").exists()


def test_a_detached_cluster_is_not_ended_by_sighup(run: ClusterRun, endless: TinyJob) -> None:
    done = run.run("cluster", "up", "--solver", str(endless.solver), "--detach", "--peers", "1", *QUICK)
    assert done.returncode == 0, done.stderr
    supervisor = int(run.status()["pid"])
    os.kill(supervisor, signal.SIGHUP)
    before = wait_for("it trains", run.training)["p0"]["iteration"]
    wait_for("it trains on", lambda: run.training().get("p0", {}).get("iteration", 0) > before)
    assert run.run("cluster", "down").returncode == 0
    run.assert_nothing_is_left()


def test_a_peer_that_is_hung_up_leaves_in_good_order(run: ClusterRun, endless: TinyJob) -> None:
    up = run.start("cluster", "up", "--solver", str(endless.solver), "--peers", "2", *QUICK)
    peer = wait_for("it trains", lambda: run.training().get("p1"))
    os.kill(peer["agent_pid"], signal.SIGHUP)
    wait_for(
        "it has left", lambda: not next(p for p in run.status()["peers"] if p["peer"] == "p1")["running"]
    )
    (ended,) = (peer for peer in run.status()["peers"] if peer["peer"] == "p1")
    assert ended["end"] == "left (exit 75)"
    up.send_signal(signal.SIGTERM)
    assert up.wait(60) == ExitCode.LEFT
