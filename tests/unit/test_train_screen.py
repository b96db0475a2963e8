"""What ``train`` shows: the figures of a cluster, lines, durations; and the folder of its cluster."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.checkpoint.announce import checkpoint_id
from gossip_caffe.cli.terminal.train_screen import TrainScreen, line_of
from gossip_caffe.cluster.figures import Figures, figures_of
from gossip_caffe.cluster.state.folder import ClusterState
from gossip_caffe.cluster.temporary import temporary_cluster
from gossip_caffe.cluster.view import duration
from gossip_caffe.observe.log.status import PeerStatus
from gossip_caffe.observe.log.tested import TEST_LOSS, ConsensusTest, Output

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
        steady_samples_per_s=80.0,
        loss=loss,
        learning_rate=0.01,
        progress_samples=progress,
    )


def test_figures_are_those_of_the_whole_cluster() -> None:
    found = figures_of(status(peer("p0", 1.0, 700), peer("p1", 2.0, 800), tested=TEST.to_record()), 1600)
    assert found == Figures(800, 200.0, 1.5, 0.01, 2, TEST, steady_samples_per_s=160.0)
    assert line_of(found, 1600) == (
        " 50% of 1,600 samples, 200 samples/s, loss 1.5000, rate 0.01, accuracy 0.975, 0:00:05 left"
    )


def test_figures_before_the_first_peer_and_after_the_last() -> None:
    assert figures_of(status(), 1600) == Figures()
    assert figures_of(status(finished={"checkpoint": "c"}), 1600).done_samples == 1600
    assert figures_of(status(tested={"of": "another version"}), 1600).tested is None


def test_a_time_left_that_nobody_knows_is_said_to_be_unknown() -> None:
    """Before the first iteration is finished there is no speed."""
    slow = PeerStatus("p0", "training", iteration=1, samples_per_s=0.0, samples=0)
    found = figures_of(status(slow), 512)
    assert line_of(found, 512) == "  0% of 512 samples, 0 samples/s, rate 0, time left unknown yet"


def test_what_is_trained_counts_before_the_account_knows_of_it() -> None:
    ahead = PeerStatus(
        "p0", "training", iteration=9, samples_per_s=6.4, samples=2304, steady_samples_per_s=6.4
    )
    found = figures_of(status(ahead), 4608)
    assert found.done_samples == 2304
    assert line_of(found, 4608).endswith("0:06:00 left")
    resumed = PeerStatus("p0", "training", iteration=9, samples=2304, progress_samples=4000, job_samples=4512)
    assert figures_of(status(resumed), 4608).done_samples == 4512
    assert found.seconds_of(256) == pytest.approx(40.0)
    assert Figures().seconds_of(256) == 0.0


def test_what_is_done_at_the_end_is_said() -> None:
    done = PeerStatus("p0", "training", iteration=9, samples_per_s=3.0, samples=512)
    waits = replace(done, peer="p1", waits_for="the last checkpoint and a test")
    found = figures_of(status(done), 512)
    assert line_of(found, 512) == "100% of 512 samples; waits for the settlement of the last chunks"
    found = figures_of(status(done, waits), 512)
    assert line_of(found, 512) == "100% of 512 samples; waits for the last checkpoint and a test"


def test_a_test_on_the_way_is_said() -> None:
    held = PeerStatus(
        "p0",
        "training",
        iteration=9,
        samples=256,
        steady_samples_per_s=4.0,
        tests_ahead_s=6,
        waits_for="a test",
    )
    found = figures_of(status(held), 512)
    assert line_of(found, 512).endswith(", waits for a test, 0:01:10 left")


def displayed(number: int | None, *lines: str) -> dict[str, Any]:
    return {"event": "displayed", "number": number, "lines": list(lines)}


def test_of_several_peers_the_first_that_comes_to_an_iteration_is_displayed() -> None:
    said: list[str] = []
    screen = TrainScreen(1600, said.append)
    for event in (
        displayed(0, "Iteration 0, loss = 2"),
        displayed(0, "Iteration 3, loss = 3"),
        displayed(None, "    [Backward] All net params (data, diff)"),
        displayed(1, "Iteration 101, loss = 1"),
        {"event": "displayed", "lines": "of another version"},
    ):
        screen.happened(event)
    assert said == [
        "Iteration 0, loss = 2",
        "    [Backward] All net params (data, diff)",
        "Iteration 101, loss = 1",
    ]


def test_a_test_of_the_log_and_of_the_store_is_said_once_and_one_that_only_the_log_has_too() -> None:
    said: list[str] = []
    screen = TrainScreen(1600, said.append)
    before = ConsensusTest(400, 50, (Output("accuracy", (0.5,)),), mark=1)
    for test in (before, TEST):
        screen.happened({"event": "tested", "t": 1.0, "m": 2.0, **test.to_record()})
    screen.look(status(tested=TEST.to_record()))
    screen.happened({"event": "tested", "outputs": 3})
    assert [line.partition(":")[0] for line in said] == ["iteration 50", "iteration 100"]


def test_each_test_is_said_once() -> None:
    said: list[str] = []
    screen = TrainScreen(1600, said.append)
    for _ in range(3):
        screen.look(status(tested=TEST.to_record()))
    assert said == ["iteration 100: loss = 0.25 (* 1 = 0.25 loss), accuracy = 0.975"]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00:00"), (61.4, "0:01:01"), (3723, "1:02:03")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_whole_loss_is_said_as_caffe_says_it_and_is_no_score() -> None:
    test = ConsensusTest(0, 0, (Output(TEST_LOSS, (0.25,)), Output("accuracy", (0.5,))))
    assert test.words() == "Test loss: 0.25, accuracy = 0.5"
    assert (test.headline, test.score) == ("accuracy 0.5", 0.5)


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


@pytest.mark.parametrize(("samples", "age_days", "stays"), [(0, 1, False), (640, 1, True), (640, 8, False)])
def test_what_was_learned_in_a_command_that_failed_stays_for_a_week(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int, age_days: float, stays: bool
) -> None:
    monkeypatch.setenv("GOSSIP_CAFFE_STATE", str(tmp_path))
    left = ClusterState("train-b").folder
    kept = left / "run" / "checkpoints" / "p0" / checkpoint_id(samples, "p0-1234")
    kept.mkdir(parents=True)
    (kept / "manifest.json").touch()
    then = time.time() - age_days * 86_400
    os.utime(left, (then, then))
    with temporary_cluster("c"):
        assert left.is_dir() is stays
