"""The ranks of a launch find rank 0's training; the name of their launch; the GPU of a rank."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from gossip_caffe.api.starting.gpus import gpu_of_rank
from gossip_caffe.cluster import meeting as meetings
from gossip_caffe.cluster.meeting import Meeting
from gossip_caffe.errors import EnvironmentProblem, UsageError
from gossip_caffe.system.launch import Launch, descriptors, launch_in, launcher, of_rank, step_in

MPICH = {
    "PMI_RANK": "3",
    "PMI_SIZE": "4",
    "MPI_LOCALRANKID": "1",
    "PMI_FD": "11",
    "HYDI_CONTROL_FD": "7",
    "HOME": "/x",
}


@pytest.fixture
def meeting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Meeting:
    monkeypatch.setenv("GOSSIP_CAFFE_STATE", str(tmp_path / "state"))
    return Meeting("77-123")


def test_the_others_hear_the_arguments_that_rank_0_tells(meeting: Meeting) -> None:
    heard: list[tuple[str, ...]] = []
    other = threading.Thread(target=lambda: heard.append(meeting.heard()))
    other.start()
    with meeting.held():
        meeting.tell(("--etcd", "unix:/a b", "--job", "j"))
        other.join(30)
        assert heard == [("--etcd", "unix:/a b", "--job", "j")]
        assert meeting.path.stat().st_mode & 0o077 == 0
    assert not meeting.path.exists()
    meeting.ends()


def test_a_death_of_rank_0_is_told_from_its_end(meeting: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not meeting.was_killed
    with meeting.held():
        meeting.tell(("--job", "j"))
        meeting.heard()
        assert not meeting.was_killed
        monkeypatch.setattr(meetings, "started_at", lambda pid: None)
        assert meeting.was_killed
    assert not meeting.was_killed


def test_the_reason_why_rank_0_has_no_training_is_told(meeting: Meeting) -> None:
    with pytest.raises(UsageError), meeting.held():
        raise UsageError("solver.prototxt:3: no such field", remedy="leave it out")
    with pytest.raises(EnvironmentProblem, match=r"rank 0 has no training: solver.prototxt:3: no such field"):
        meeting.heard()


def test_what_an_earlier_launch_of_that_name_left_is_removed(meeting: Meeting) -> None:
    meeting.tell(("--job", "old"))
    with meeting.held(), pytest.raises(EnvironmentProblem, match="give all of them --etcd and --job"):
        meeting.heard(0.0)


def test_a_rank_whose_launcher_has_ended_does_not_wait(
    meeting: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    parents = iter([77, 77, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(meetings, "LOOK_EVERY_S", 0.0)
    with pytest.raises(EnvironmentProblem, match="the launcher of this rank has ended"):
        meeting.heard()


def proc(folder: Path, pid: int, parent: int, environment: bytes) -> None:
    (folder / str(pid)).mkdir()
    fields = ["S", str(parent), *["0"] * 17, str(1000 + pid), "0"]
    (folder / str(pid) / "stat").write_text(f"{pid} (a b) {' '.join(fields)}")
    (folder / str(pid) / "environ").write_bytes(environment)


def test_the_launcher_is_found_behind_the_scripts_of_a_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getppid", lambda: 30)
    proc(tmp_path, 10, 1, b"HOME=/x\0")
    proc(tmp_path, 20, 10, b"HOME=/x\0OMPI_COMM_WORLD_RANK=2\0")
    proc(tmp_path, 30, 20, b"OMPI_COMM_WORLD_RANK=2\0")
    assert launcher(tmp_path) == "10-1010"


def test_a_child_gets_what_makes_it_the_rank() -> None:
    assert launch_in(MPICH) == Launch(3, 4, 1)
    assert of_rank(MPICH) == {name: value for name, value in MPICH.items() if name != "HOME"}
    assert descriptors(MPICH) == (11, 7)


def test_the_tasks_of_a_step_of_slurm_are_ranks_too() -> None:
    step = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "0"}
    assert step_in(step) == Launch(2, 4, 0)
    for change in ({"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_STEP_NUM_TASKS": ""}, {"SLURM_PROCID": "x"}):
        assert step_in(step | change) is None


def test_each_rank_of_a_machine_gets_the_next_gpu() -> None:
    assert [gpu_of_rank("0,2", local, "numpy") for local in range(3)] == [0, 2, 0]
    assert gpu_of_rank("", 1, "numpy") is None
