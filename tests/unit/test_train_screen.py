"""What ``train`` shows: the figures of a cluster, lines, durations; and the folder of its cluster."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.cli.train_screen import TrainScreen, duration, line_of
from gossip_caffe.cluster.figures import Figures, figures_of
from gossip_caffe.cluster.state import ClusterState
from gossip_caffe.cluster.temporary import temporary_cluster
from gossip_caffe.observe.status import PeerStatus
from gossip_caffe.observe.tested import ConsensusTest, Output

TEST = ConsensusTest(800, 100, (Output("loss", (0.25,), loss_weight=1.0), Output("accuracy", (0.975,))))


def status(*peers: PeerStatus, **changes: Any) -> dict[str, Any]:
    rows = [{"peer": peer.peer, "running": True, "status": asdict(peer)} for peer in peers]
    return {"finished": None, "tested": None, "peers": rows, **changes}


def peer(name: str, loss: float, progress: int) -> PeerStatus:
    return PeerStatus(
        name,
        "training",
        iteration=9,
        samples_per_s=100.0,
        loss=loss,
        learning_rate=0.01,
        progress_samples=progress,
    )


def test_figures_are_those_of_the_whole_cluster() -> None:
    found = figures_of(status(peer("p0", 1.0, 700), peer("p1", 2.0, 800), tested=TEST.to_record()), 1600)
    assert found == Figures(800, 200.0, 1.5, 0.01, 2, TEST)
    assert line_of(found, 1600) == (
        " 50% of 1,600 samples, 200 samples/s, loss 1.5000, rate 0.01, accuracy 0.975, 0:00:04 left"
    )


def test_figures_before_the_first_peer_and_after_the_last() -> None:
    assert figures_of(status(), 1600) == Figures()
    assert figures_of(status(finished={"checkpoint": "c"}), 1600).done_samples == 1600
    assert figures_of(status(tested={"of": "another version"}), 1600).tested is None


def test_each_test_is_said_once() -> None:
    said: list[str] = []
    screen = TrainScreen(1600, said.append)
    for _ in range(3):
        screen.look(status(tested=TEST.to_record()))
    assert said == ["iteration 100: loss = 0.25 (* 1 = 0.25 loss), accuracy = 0.975"]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00:00"), (61.4, "0:01:01"), (3723, "1:02:03")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_output_in_words() -> None:
    assert Output("p", (1.0, None, 3.0, 4.0), values=10).words() == "p = 1, nan, 3, … (10 values)"
    several = ConsensusTest(0, 0, (Output("a", (0.5,)), Output("a", (None,), net=1)))
    assert several.words() == "a = 0.5, net #1 a = nan"
    assert several.headline == "a 0.5"
    assert ConsensusTest(0, 0, (Output("p", (1.0, 2.0), values=2),)).headline == ""
    assert ConsensusTest.from_json(several.to_json()) == several


def test_a_temporary_clusters_folder_goes_with_it_and_stays_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOSSIP_CAFFE_STATE", str(tmp_path))
    with temporary_cluster("a") as state:
        state.lock().close()
        assert state.name == "train-a"
        assert state.folder.is_dir()
    assert not state.folder.exists()

    def fail() -> None:
        with temporary_cluster("b") as state:
            state.lock().close()
            raise OSError("it fails")

    with pytest.raises(OSError, match="it fails"):
        fail()
    left = ClusterState("train-b").folder
    assert left.is_dir()
    with temporary_cluster("c"):
        assert left.is_dir()  # it is fresh: its command may be just about to take it
    os.utime(left, (0, 0))
    with ClusterState("train-b").lock(), temporary_cluster("d"):
        assert left.is_dir()  # it is up
    os.utime(left, (0, 0))
    with temporary_cluster("e"):
        assert not left.exists()
