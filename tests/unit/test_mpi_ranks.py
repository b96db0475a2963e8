"""The partners to which weights go by MPI; the launch that a process belongs to; MPI in a peer's process."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import random
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from gossip_caffe.errors import EnvironmentProblem, NotInstalled, UsageError
from gossip_caffe.gossip.transport.mpi.communicator import Rank
from gossip_caffe.gossip.transport.mpi.mpi_thread import MpiThread
from gossip_caffe.gossip.transport.mpi.ranks import AVOIDED_FOR, MpiRanks, NoRanks
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.observe.log.events import MemoryLog
from gossip_caffe.peer.sharing import mpi
from gossip_caffe.peer.sharing.mpi import MpiOfPeer, Way, wanted_launch
from gossip_caffe.system import processes
from gossip_caffe.system.launch import Launch, launch_in, without_rank
from tests.fake_mpi import COMMUNICATOR, FakeCommunicator
from tests.fake_mpi import Launch as FakeLaunch

OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "3", "PMIX_RANK": "1"}
MPICH = {"PMI_RANK": "0", "PMI_SIZE": "2", "PMI_FD": "9"}


def record(number: int, state: str = "training", communicator: str = COMMUNICATOR) -> PeerRecord:
    rank = f"{communicator}/{number}" if communicator else ""
    return PeerRecord(f"p{number}", "1", f"10.0.0.{number}:7000", "host", 1, state, mpi=rank)


class Used:
    """The ranks of process 0 of a launch of three, and why MPI was given up."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        self.launch = FakeLaunch(3)
        self.ranks = MpiRanks(self.ends.append, random.Random(1))
        communicator = self.launch.ranks[0]
        self.ranks.use(MpiThread(lambda: communicator, lambda: None), communicator)
        for number in range(3):
            self.ranks.changed(None, record(number))


def test_a_rank_is_read_from_the_record_that_it_was_written_to() -> None:
    rank = Rank(COMMUNICATOR, 12)
    assert Rank.parse(str(rank)) == rank
    for text in (
        "",
        "0123/1",
        COMMUNICATOR,
        f"{COMMUNICATOR}/-1",
        f"{COMMUNICATOR}/1\n",
        f"{COMMUNICATOR}/١",
    ):
        assert Rank.parse(text) is None


def test_weights_go_by_mpi_to_the_other_ranks_of_this_launch_alone() -> None:
    used = Used()
    used.ranks.changed(None, record(7, communicator="f" * 16))
    used.ranks.changed(None, record(8, communicator=""))
    used.ranks.changed(None, record(5))  # of our launch, but there are only three
    at = {number: used.ranks.is_at(f"10.0.0.{number}:7000") for number in (0, 1, 2, 5, 7, 8, 9)}
    assert at == {0: False, 1: True, 2: True, 5: False, 7: False, 8: False, 9: False}
    assert used.ranks.serves(Rank(COMMUNICATOR, 2))
    assert not used.ranks.serves(Rank(COMMUNICATOR, 0))
    assert not used.ranks.serves(Rank("f" * 16, 2))
    assert not used.ranks.serves(None)


def test_rows_of_rounds_go_by_mpi_to_ranks_of_other_machines_if_that_is_wanted() -> None:
    used = Used()
    communicator = used.launch.ranks[0]
    communicator.nearby = {1: 77}
    apart = {number: used.ranks.is_apart(f"10.0.0.{number}:7000") for number in (0, 1, 2, 9)}
    assert apart == {0: False, 1: False, 2: True, 9: False}
    unwanted = MpiRanks(lambda why: None, random.Random(1), carries_rounds=False)
    unwanted.use(MpiThread(lambda: communicator, lambda: None), communicator)
    unwanted.changed(None, record(2))
    assert unwanted.is_at("10.0.0.2:7000")
    assert not unwanted.is_apart("10.0.0.2:7000")
    assert not NoRanks().is_apart("10.0.0.2:7000")


def test_a_peer_without_mpi_serves_no_rank() -> None:
    ranks = NoRanks()
    assert (ranks.own, ranks.is_at("a:1"), ranks.serves(Rank(COMMUNICATOR, 1))) == (None, False, False)


def test_before_mpi_has_begun_no_rank_is_served() -> None:
    ranks = MpiRanks(lambda why: None, random.Random(1))
    ranks.changed(None, record(1))
    assert ranks.own is None
    assert not ranks.is_at("10.0.0.1:7000")


def test_tags_are_even_fit_and_differ() -> None:
    used = Used()
    tags = [used.ranks.tag() for _ in range(1000)]
    assert len(set(tags)) == 1000
    assert all(tag % 2 == 0 and 0 <= tag < FakeCommunicator.most_tag for tag in tags)


def test_a_rank_that_died_ends_mpi_for_all_with_one_line() -> None:
    used = Used()
    used.ranks.changed(record(2), None)
    used.ranks.changed(record(1), None)
    assert used.ends == ["rank 2 (p2) has died"]
    assert used.ranks.own is None
    assert not used.ranks.is_at("10.0.0.1:7000")


def test_a_rank_that_leaves_in_order_is_forgotten_and_the_others_go_on() -> None:
    used = Used()
    used.ranks.changed(record(2), record(2, "draining"))
    used.ranks.unreachable("10.0.0.2:7000")
    used.ranks.changed(record(2, "draining"), None)
    assert used.ends == []
    assert used.ranks.some_left
    assert not used.ranks.is_at("10.0.0.2:7000")
    assert used.ranks.is_at("10.0.0.1:7000")


def test_ranks_that_end_because_the_job_is_finished_are_not_dead() -> None:
    used = Used()
    used.ranks.until(lambda: True)
    used.ranks.unreachable("10.0.0.1:7000")
    used.ranks.changed(record(2), None)
    assert used.ends == []
    assert not used.ranks.some_left


def test_a_rank_that_registers_again_is_the_same_rank() -> None:
    used = Used()
    again = replace(record(2), incarnation="2", address="10.0.0.9:7000")
    used.ranks.changed(record(2), again)
    assert used.ends == []
    assert used.ranks.is_at("10.0.0.9:7000")
    assert not used.ranks.is_at("10.0.0.2:7000")


def test_a_member_of_another_launch_may_die() -> None:
    used = Used()
    other = record(7, communicator="f" * 16)
    used.ranks.changed(None, other)
    used.ranks.changed(other, None)
    used.ranks.unreachable("10.0.0.99:7000")
    assert used.ends == []


def test_a_rank_that_does_not_answer_ends_mpi() -> None:
    used = Used()
    used.ranks.unreachable("10.0.0.1:7000")
    assert used.ends == ["rank 1 at 10.0.0.1:7000 does not answer"]


def test_a_rank_with_which_mpi_failed_is_avoided_for_a_while() -> None:
    used = Used()
    used.ranks._avoided[1] = AVOIDED_FOR
    asked = [used.ranks.is_at("10.0.0.1:7000") for _ in range(AVOIDED_FOR + 1)]
    assert asked == [False] * AVOIDED_FOR + [True]
    assert used.ranks.is_at("10.0.0.2:7000")


# ── the launch ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("environment", "launch"),
    [
        (OPEN_MPI, Launch(1, 3, 1)),
        (MPICH, Launch(0, 2)),
        ({"PMIX_RANK": "4"}, Launch(4, 0, 4)),
        ({"PMIX_RANK": "4", "SLURM_LOCALID": "0"}, Launch(4, 0, 0)),
        ({"PMI_RANK": "x"}, None),
        ({"SLURM_PROCID": "3"}, None),
        ({}, None),
    ],
)
def test_the_launch_is_read_from_the_environment(environment: dict[str, str], launch: Launch | None) -> None:
    assert launch_in(environment) == launch


def test_a_child_is_no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**OPEN_MPI, **MPICH, "OMPI_MCA_btl": "tcp", "OWN": "kept"}.items():
        monkeypatch.setenv(name, value)
    assert launch_in({name: "" for name in os.environ if name not in without_rank(os.environ)}) is None
    child = processes.spawn(
        [sys.executable, "-c", "import os; print(sorted(os.environ))"], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    names = child.communicate(timeout=60)[0].decode()
    assert "'OWN'" in names
    assert not any(word in names for word in ("OMPI_", "PMIX_", "PMI_"))


def test_mpi_is_used_where_it_is_asked_for_or_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert wanted_launch(Way.AUTO, OPEN_MPI, said.append) == Launch(1, 3, 1)
    assert wanted_launch(Way.MPI, MPICH, said.append) == Launch(0, 2)
    assert wanted_launch(Way.GRPC, OPEN_MPI, said.append) is None
    assert wanted_launch(Way.AUTO, {}, said.append) is None
    assert wanted_launch(Way.AUTO, {"PMI_RANK": "0", "PMI_SIZE": "1"}, said.append) is None
    with pytest.raises(UsageError, match="no launcher of MPI"):
        wanted_launch(Way.MPI, {}, said.append)
    assert said == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert wanted_launch(Way.AUTO, OPEN_MPI, said.append) is None
    assert "mpi4py is not installed" in said[0]
    with pytest.raises(NotInstalled, match="mpi4py"):
        wanted_launch(Way.MPI, OPEN_MPI, said.append)


# ── MPI in a peer's process ───────────────────────────────────────────────────────────────────────────────────────────


class OwnMpi:
    """MPI of a peer whose communicator is a fake one."""

    def __init__(self, way: str, connect: mpi.Connect) -> None:
        self.said: list[str] = []
        self.log = MemoryLog()
        self.mpi = MpiOfPeer(
            "p1", way, self.said.append, self.said.append, random.Random(1), OPEN_MPI, connect
        )


@pytest.fixture(autouse=True)
def _mpi4py_is_there(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "OwnMpi" in request.function.__code__.co_names:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


async def test_a_peer_of_a_launch_says_its_rank_and_logs_it() -> None:
    communicator = FakeLaunch(3).ranks[1]
    own = OwnMpi("auto", lambda launch: communicator)
    assert await own.mpi.begin(own.log) == f"{COMMUNICATOR}/1"
    assert own.said[0] == "p1: weights go to the other ranks by MPI (Fake MPI 1.0, rank 1 of 3)"
    assert own.log.events[0] == {
        "event": "mpi",
        "used": True,
        "rank": 1,
        "size": 3,
        "library": "Fake MPI 1.0",
    }
    own.mpi.ranks.changed(None, record(2))
    own.mpi.ranks.changed(record(2), None)
    assert own.said[-1] == "p1: rank 2 (p2) has died: from now on weights go over gRPC"
    assert own.log.events[-1] == {"event": "mpi", "used": False, "reason": "rank 2 (p2) has died"}
    await own.mpi.end()
    assert not communicator.is_closed  # the end of MPI might wait for the dead rank


async def test_mpi_ends_in_order_where_no_rank_has_died() -> None:
    communicator = FakeLaunch(3).ranks[1]
    own = OwnMpi("auto", lambda launch: communicator)
    await own.mpi.begin(own.log)
    own.mpi.ends_with_job = True
    await own.mpi.end()
    assert communicator.is_closed


async def test_ranks_that_never_begin_are_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpi, "BEGIN_S", 0.01)
    never = threading.Event()

    def connect(launch: Launch) -> FakeCommunicator:
        never.wait(60)
        raise RuntimeError

    own = OwnMpi("auto", connect)
    assert await own.mpi.begin(own.log) == ""
    assert own.said == ["p1: not all ranks of the launch have begun MPI within 0.01 s; weights go over gRPC"]
    assert own.mpi.ranks.own is None
    await own.mpi.end()
    own = OwnMpi("mpi", connect)
    with pytest.raises(EnvironmentProblem, match=r"docs/mpi\.md"):
        await own.mpi.begin(own.log)
    never.set()


async def test_a_library_that_is_not_the_launchers_is_named() -> None:
    def connect(launch: Launch) -> FakeCommunicator:
        raise EnvironmentProblem("the launcher has started 3 ranks, and it knows of 1", remedy="use its own")

    own = OwnMpi("auto", connect)
    assert await own.mpi.begin(own.log) == ""
    assert "knows of 1; use its own; weights go over gRPC" in own.said[0]
    await asyncio.sleep(0)
