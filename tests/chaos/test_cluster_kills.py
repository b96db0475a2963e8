"""Kill -9 of every kind of process in a running cluster: training goes on, and nothing is left behind in the end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gossip_caffe.data.sources.source import measure
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.observe.history.account import account_of
from tests.cluster_run import ClusterRun, cluster_run, memfds, wait_for
from tests.tiny_job import TinyJob, write_job

PEERS = 3


@pytest.fixture
def job(tmp_path: Path) -> TinyJob:
    """Steps and epochs long enough that the control plane has the time that it has in real jobs."""
    return write_job(tmp_path / "job", records=9600, batch=16, iterations=1_000_000, pace_ms=20)


@pytest.fixture
def up(tmp_path: Path, job: TinyJob) -> Iterator[ClusterRun]:
    """Three peers that train."""
    with cluster_run(tmp_path / "state") as run:
        run.start("cluster", "up", "--peers", str(PEERS), "--solver", str(job.solver))
        wait_for("all peers train", lambda: len(run.training()) == PEERS)
        yield run


def goes_on(run: ClusterRun, names: set[str]) -> None:
    """Each of these peers makes further iterations."""
    peers = wait_for("they are shown", lambda: names <= (found := run.peers()).keys() and found)
    before = {name: peers[name]["iteration"] for name in names}

    def further() -> bool:
        now = run.peers()
        return all(name in now and now[name]["iteration"] > before[name] + 50 for name in names)

    wait_for(f"{', '.join(sorted(names))} go on", further)


def test_a_killed_solver_is_back_from_its_last_snapshot_and_the_others_go_on(up: ClusterRun) -> None:
    before = up.peers()["p1"]
    os.kill(before["solver_pid"], signal.SIGKILL)
    goes_on(up, {"p0", "p2"})
    after = wait_for(
        "p1 has a new solver",
        lambda: (p := up.peers().get("p1")) and p["solver_restarts"] == 1 and p["solver_pid"] and p,
    )
    assert after["solver_pid"] != before["solver_pid"]
    assert after["agent_pid"] == before["agent_pid"]
    assert after["iteration"] > before["iteration"] / 2
    goes_on(up, {"p0", "p1", "p2"})


def test_a_killed_loader_is_back_and_everybody_goes_on(up: ClusterRun) -> None:
    before = up.peers()["p2"]
    os.kill(before["loader_pid"], signal.SIGKILL)
    wait_for(
        "p2 has a new loader",
        lambda: (p := up.peers().get("p2")) and p["loader_pid"] not in {0, before["loader_pid"]},
    )
    goes_on(up, {"p0", "p1", "p2"})


def test_when_an_agent_is_killed_its_children_go_with_it_and_the_others_go_on(up: ClusterRun) -> None:
    killed = up.peers()["p0"]
    os.kill(killed["agent_pid"], signal.SIGKILL)
    wait_for(
        "its solver and loader are gone",
        lambda: not {killed["solver_pid"], killed["loader_pid"]} & set(up.processes()),
    )
    wait_for("its lease is over", lambda: "p0" not in up.peers(), 30.0)
    goes_on(up, {"p1", "p2"})


def test_a_whole_peer_can_be_killed_and_another_takes_its_place(up: ClusterRun) -> None:
    done = up.run("cluster", "kill", "p1")
    assert done.returncode == 0, done.stderr
    goes_on(up, {"p0", "p2"})
    done = up.run("cluster", "scale", str(PEERS))
    assert done.returncode == 0, done.stderr
    wait_for("the new peer trains", lambda: "p3" in up.training())
    goes_on(up, {"p0", "p2", "p3"})


def test_down_leaves_nothing(up: ClusterRun) -> None:
    assert any(memfds(pid) for pid in up.processes())
    done = up.run("cluster", "down")
    assert done.returncode == 0, done.stderr
    up.assert_nothing_is_left()
    again = up.run("cluster", "down")
    assert again.returncode == 0
    assert "nothing to do" in again.stdout


def test_ctrl_c_leaves_nothing(up: ClusterRun) -> None:
    os.kill(up.status()["pid"], signal.SIGINT)
    up.assert_nothing_is_left()


def test_a_killed_supervisor_leaves_nothing_and_the_same_command_goes_on_at_once(
    up: ClusterRun, job: TinyJob
) -> None:
    os.kill(up.status()["pid"], signal.SIGKILL)
    up.assert_nothing_is_left()
    done = up.run("cluster", "up", "--detach", "--peers", str(PEERS), "--solver", str(job.solver))
    assert done.returncode == 0, done.stderr
    assert set(up.peers()) == {"p0", "p1", "p2"}
    assert up.run("cluster", "down").returncode == 0
    up.assert_nothing_is_left()


def test_a_frozen_peer_is_given_up_by_the_others_and_can_still_be_taken_down(up: ClusterRun) -> None:
    done = up.run("cluster", "kill", "p1", "--what", "all", "--signal", "STOP")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(",") == 2  # agent, solver and loader
    wait_for("its lease is over", lambda: "p1" not in up.peers(), 30.0)
    goes_on(up, {"p0", "p2"})
    assert up.run("cluster", "down").returncode == 0
    up.assert_nothing_is_left()


def test_with_restart_another_peer_takes_the_place_of_a_killed_one(tmp_path: Path, job: TinyJob) -> None:
    with cluster_run(tmp_path / "state") as run:
        run.start("cluster", "up", "--restart", "--peers", "2", "--solver", str(job.solver))
        wait_for("both train", lambda: len(run.training()) == 2)
        assert run.run("cluster", "kill", "p0").returncode == 0
        wait_for("another one trains", lambda: set(run.training()) == {"p1", "p2"})
        assert run.run("cluster", "down").returncode == 0
        run.assert_nothing_is_left()


def test_scaled_to_none_the_cluster_stays_up_until_it_is_taken_down(up: ClusterRun) -> None:
    assert up.run("cluster", "scale", "0").returncode == 0
    left = up.status()["peers"]
    assert [peer["end"] for peer in left] == ["left (exit 75)"] * PEERS
    again = up.run("cluster", "scale", "0")
    assert again.stdout == "0 run already\n"
    assert up.run("cluster", "down").returncode == 0
    up.assert_nothing_is_left()


def test_nothing_is_lost_when_solver_loader_and_peers_are_killed_on_the_way(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", records=9600, batch=16, iterations=3_000, pace_ms=100)
    with cluster_run(tmp_path / "state") as run:
        process = run.start("cluster", "up", "--peers", "3", "--solver", str(job.solver))
        wait_for("all peers train", lambda: len(run.training()) == 3)
        run.run("cluster", "kill", "p0", "--what", "solver")
        run.run("cluster", "kill", "p1", "--what", "loader")
        run.run("cluster", "kill", "p2")
        run.run("cluster", "scale", "3")
        job.hurry()
        wait_for("the job is finished", lambda: process.poll() is not None, 240.0)
        log = (run.folder / "up.log").read_text()
        assert process.returncode == 0, log
        assert "is finished" in log
        spec = read_job("job", job.solver, JobSettings(), measure)
        found = account_of(run.folder / "clusters" / "local" / "run", spec)
        assert found.records_lost == 0
        assert found.records_trained == spec.budget_samples
        assert found.peers_killed == 1
        run.assert_nothing_is_left()
