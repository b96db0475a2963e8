"""What a local cluster decides and shows, without any process: scaling, names, tables, and its folder."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.cluster.fleet.plan import gpu_for, name_from, scaling
from gossip_caffe.cluster.state.folder import ClusterState, clusters_root
from gossip_caffe.cluster.supervision.control import ask, serve
from gossip_caffe.cluster.view import HEADINGS, Remembering, headline, plain, remarks, rows
from gossip_caffe.errors import (
    Conflict,
    EnvironmentProblem,
    ExitCode,
    GossipCaffeError,
    NotFound,
    StoreUnavailable,
    UsageError,
)
from gossip_caffe.observe.log.status import PeerStatus
from gossip_caffe.observe.log.tested import ConsensusTest, Output

names = st.lists(st.text("pqr0123", min_size=1, max_size=4), max_size=12, unique=True)


@given(names, st.integers(0, 20))
def test_scaling_ends_with_as_many_peers_as_wanted_and_never_starts_and_stops_at_once(
    running: list[str], wanted: int
) -> None:
    decision = scaling(running, wanted)
    assert len(running) + decision.start - len(decision.stop) == wanted
    assert not (decision.start and decision.stop)
    assert decision.reason


def test_the_names_of_a_certificate_are_given_once_each_and_then_those_of_peers_that_have_ended() -> None:
    names = ("a", "b", "c")
    assert name_from(names, (), []) == "a"
    assert name_from(names, ("a", "b"), ["b"]) == "c"
    assert name_from(names, ("b", "a", "c"), ["c"]) == "b"
    assert name_from(names, ("a", "b", "c"), ["a", "b", "c"]) is None
    assert name_from((), (), []) is None


@given(names, st.integers(0, 20))
def test_the_newest_peers_leave_and_the_oldest_stay(running: list[str], wanted: int) -> None:
    decision = scaling(running, wanted)
    assert [*running[: len(running) - len(decision.stop)], *decision.stop] == running


@given(names, st.integers(0, 20))
def test_scaling_twice_to_the_same_number_does_nothing_the_second_time(
    running: list[str], wanted: int
) -> None:
    first = scaling(running, wanted)
    after = [name for name in running if name not in first.stop] + [f"new{n}" for n in range(first.start)]
    second = scaling(after, wanted)
    assert (second.start, second.stop) == (0, ())
    assert second.reason == f"{wanted} run already"


def peer(name: str, **changes: Any) -> dict[str, Any]:
    return {"peer": name, "pid": 7, "running": True, "end": "", "cause": "", **changes}


def cluster(*peers: dict[str, Any], **changes: Any) -> dict[str, Any]:
    entries = {
        "cluster": "local",
        "job": "mnist",
        "etcd": "127.0.0.1:1",
        "etcd_away": "",
        "finished": None,
        "tested": None,
    }
    return {**entries, "peers": list(peers), **changes}


TRAINING = PeerStatus(
    "p0", "training", iteration=1200, samples_per_s=950.4, loss=0.25, learning_rate=0.01, chunks_done=31,
    chunks_owned=4, exchanges_applied=9, exchanges_failed=1, consensus_distance=2.5e-4, progress_samples=500,
    budget_samples=2000, agent_pid=11, solver_restarts=2,
)  # fmt: skip


def test_a_training_peer_shows_all_its_figures() -> None:
    (row,) = rows(cluster(peer("p0", status=asdict(TRAINING))))
    assert dict(zip(HEADINGS, row, strict=True)) == {
        "PEER": "p0", "STATE": "training", "PID": "11", "ITER": "1,200", "SAMPLES/S": "950", "LOSS": "0.2500",
        "RATE": "0.01", "DONE": "31", "OWNED": "4", "EXCHANGED": "9", "FAILED": "1", "DISTANCE": "2.5e-04",
        "NOTE": "2 solver restarts",
    }  # fmt: skip


def test_every_kind_of_peer_has_a_cell_for_every_heading() -> None:
    status = cluster(
        peer("p0", status=asdict(TRAINING)),
        peer("p1"),
        peer("p2", running=False, end="killed by SIGKILL"),
        peer("p3", running=False, end="exit 7", cause="Caffe refused the model: Unknown layer type: Foo"),
        peer("far", pid=0, status=asdict(PeerStatus("far", "joining"))),
    )
    assert {len(row) for row in rows(status)} == {len(HEADINGS)}
    assert [row[1] for row in rows(status)] == ["training", "starting", "ended", "ended", "joining"]
    assert rows(status)[3][-1] == "exit 7: Caffe refused the model: Unknown layer type: Foo"


def test_the_headline_says_how_far_how_fast_and_what_is_wrong() -> None:
    running = cluster(peer("p0", status=asdict(TRAINING)), etcd_away="cannot reach etcd")
    assert "25% of 2,000 samples, 950 samples/s" in headline(running)
    assert "etcd is away (cannot reach etcd)" in headline(running)
    held = replace(TRAINING, job_samples=1000, steady_samples_per_s=10.0, waits_for="a test")
    waiting = cluster(peer("p0", status=asdict(held)))
    assert "50% of 2,000 samples, 950 samples/s, 0:01:40 left, waits for a test" in headline(waiting)
    assert rows(waiting)[0][-1] == "waits for a test, 2 solver restarts"
    full = cluster(peer("p0"), etcd_refuses="etcd refuses writes: full; compact")
    assert "etcd takes no writes" in headline(full)
    assert remarks(full) == ["etcd refuses writes: full; compact"]
    assert remarks(running) == []
    assert "not training yet" in headline(cluster(peer("p0")))
    assert "finished, checkpoint c9" in headline(cluster(finished={"checkpoint": "c9"}))


def test_while_etcd_is_away_the_last_figures_are_shown() -> None:
    shown: list[dict[str, Any]] = []
    show = Remembering(shown.append)
    away = cluster(peer("p0"), peer("p1", running=False, end="exit 0"), etcd_away="cannot reach etcd")
    show(away)
    assert "not training yet" in headline(shown[-1])
    training = asdict(TRAINING)
    show(cluster(peer("p0", status=training), peer("p1", status=training)))
    show(away)
    assert "25% of 2,000 samples" in headline(shown[-1])
    assert "etcd is away" in headline(shown[-1])
    assert [bool(row.get("status")) for row in shown[-1]["peers"]] == [True, False]
    show(cluster(peer("p0")))
    assert "not training yet" in headline(shown[-1])


def test_the_headline_says_what_the_last_test_gave() -> None:
    outputs = (Output("accuracy", (0.975,)), Output("loss", (0.25,), loss_weight=2.0))
    said = headline(cluster(tested=ConsensusTest(6400, 100, outputs).to_record()))
    assert said.endswith("test at iteration 100: accuracy = 0.975, loss = 0.25 (* 2 = 0.5 loss)")
    assert headline(cluster(tested={"of": "another version"}))


def test_plain_tables_are_aligned_and_have_no_trailing_blanks() -> None:
    lines = plain(("A", "LONG"), [("wide cell", ""), ("x", "y")]).splitlines()
    assert lines == ["A          LONG", "wide cell", "x          y"]


def test_the_folder_is_the_users_choice_then_xdgs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("GOSSIP_CAFFE_STATE", raising=False)
    assert clusters_root() == tmp_path / "xdg" / "gossip-caffe"
    monkeypatch.setenv("GOSSIP_CAFFE_STATE", str(tmp_path))
    assert clusters_root() == tmp_path


def test_a_cluster_is_one_supervisors_until_it_lets_go(tmp_path: Path) -> None:
    state = ClusterState("local", tmp_path)
    assert not state.taken
    with state.lock():
        assert state.taken
        with pytest.raises(Conflict, match="up already"):
            state.lock()
    assert not state.taken


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match=r"cannot use the folder .*file"):
        ClusterState("local", tmp_path / "file").lock()


def test_the_name_of_a_cluster_cannot_lead_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        ClusterState("../elsewhere", tmp_path)


async def _asked(state: ClusterState, request: Any, timeout_s: float = 60.0) -> dict[str, Any]:
    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "hello":
                return {"hello": "there"}
            case "missing":
                raise NotFound("no peer 'p9'", remedy="name another")
            case "away":
                raise StoreUnavailable("etcd is away", remedy="wait")
            case _:
                await asyncio.sleep(3600)
        return {}

    state.folder.mkdir(parents=True)
    server = await serve(state.socket, answer)
    try:
        return await asyncio.to_thread(ask, state, request, timeout_s)
    finally:
        server.close()


async def test_an_answer_comes_back_from_however_deep_a_folder(tmp_path: Path) -> None:
    state = ClusterState("local", tmp_path / ("x" * 100) / ("y" * 100))
    assert await _asked(state, {"do": "hello"}) == {"hello": "there"}
    assert state.socket.stat().st_mode & 0o777 == 0o600


async def test_a_refusal_comes_back_as_the_same_kind_of_error(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no peer 'p9'; name another"):
        await _asked(ClusterState("a", tmp_path), {"do": "missing"})
    with pytest.raises(GossipCaffeError, match="etcd is away") as caught:
        await _asked(ClusterState("b", tmp_path), {"do": "away"})
    assert caught.value.exit_code is ExitCode.UNREACHABLE


async def test_a_request_that_makes_no_sense_is_refused_and_not_a_silence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the request"):
        await _asked(ClusterState("a", tmp_path), {"does": "what"})
    with pytest.raises(UsageError, match="JSON object"):
        await _asked(ClusterState("b", tmp_path), [1])


async def test_a_supervisor_that_hangs_is_said_to(tmp_path: Path) -> None:
    with pytest.raises(GossipCaffeError, match="does not answer within"):
        await _asked(ClusterState("a", tmp_path), {"do": "hang"}, 0.5)


def test_no_cluster_is_said_to_be_none_whatever_a_dead_one_left(tmp_path: Path) -> None:
    state = ClusterState("gone", tmp_path)
    with pytest.raises(NotFound, match="no cluster 'gone' is up"):
        ask(state, {"do": "status"})
    state.folder.mkdir(parents=True)
    with pytest.raises(NotFound):
        ask(state, {"do": "status"})
    folder = os.open(state.folder, os.O_PATH | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
            left.bind(f"/proc/self/fd/{folder}/{state.socket.name}")
    finally:
        os.close(folder)
    assert state.socket.exists()
    with pytest.raises(NotFound):
        ask(state, {"do": "status"})


@given(st.lists(st.integers(0, 3), max_size=6), st.data())
def test_whoever_takes_an_ended_peers_place_takes_its_gpu(gpus: list[int], data: st.DataObject) -> None:
    taken: list[int] = []
    while (gpu := gpu_for(gpus, taken)) is not None:
        taken.append(gpu)
    assert taken == gpus
    assert gpu_for(gpus, taken) is None
    if gpus:
        ended = data.draw(st.sampled_from(gpus))
        taken.remove(ended)
        assert gpu_for(gpus, taken) == ended


def test_the_table_tells_which_gpu_a_peer_is_on_and_how_full_that_is() -> None:
    figures = asdict(PeerStatus("p0", "training", device="gpu:1", device_memory_bytes=80 * 2**30))
    row = {"peer": "p0", "pid": 1, "running": True, "status": figures}
    assert rows({"peers": [row]})[0][-1] == "gpu:1"
    row["status"] = {**figures, "device_used_bytes": 3 * 2**30}
    assert rows({"peers": [row]})[0][-1] == "gpu:1 3.0 of 80.0 GiB"
