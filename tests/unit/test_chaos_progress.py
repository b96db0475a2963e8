"""The progress of a chaos run is kept on disk, and its last lines report it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gossip_caffe.chaos.accuracy import accuracy_in, points_below
from gossip_caffe.chaos.phases import Phase
from gossip_caffe.chaos.progress import ChaosProgress, last_lines
from gossip_caffe.chaos.scenario import Act, PlannedActs, Scenario, schedule
from gossip_caffe.errors import Conflict, EnvironmentProblem
from gossip_caffe.job.spec.spec import NetTest
from gossip_caffe.observe.log.tested import Output

NET = """layer { name: "data" type: "DummyData" top: "data" top: "label" include { phase: TEST } }
layer { name: "five" type: "Accuracy" bottom: "data" bottom: "label" top: "five" include { phase: TEST } }
layer { name: "train" type: "Accuracy" bottom: "data" bottom: "label" top: "other" include { phase: TRAIN } }
"""


def progress() -> ChaosProgress:
    scenario = Scenario("some", faults=(PlannedActs(Act.KILL, 2, ("agent",)), PlannedActs(Act.RESET)))
    made = ChaosProgress({"name": "some"})
    for injection in schedule(scenario):
        made.count(injection, Phase.OFFERING)
    return made


def test_kills_are_counted_by_process_and_by_phase() -> None:
    made = progress()
    assert (made.carried_out, made.kills, made.phases) == (3, {"agent": 2}, {"offering": 2})
    assert made.others == {"reset": 1}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    folder = tmp_path / "taken" / "run"
    with pytest.raises(EnvironmentProblem, match="taken/run"):
        ChaosProgress.read(folder, {"name": "some"}).write(folder)


def test_what_was_kept_is_read_again_and_only_for_the_same_scenario(tmp_path: Path) -> None:
    made = progress()
    made.write(tmp_path)
    assert ChaosProgress.read(tmp_path, {"name": "some"}) == made
    with pytest.raises(Conflict, match="another scenario"):
        ChaosProgress.read(tmp_path, {"name": "other"})


def test_progress_of_another_version_is_refused_in_words(tmp_path: Path) -> None:
    progress().write(tmp_path)
    file = tmp_path / "chaos.json"
    file.write_text(file.read_text().replace('"carried_out"', '"dealt"'))
    with pytest.raises(Conflict, match="another version") as refused:
        ChaosProgress.read(tmp_path, {"name": "some"})
    assert refused.value.remedy


def test_the_last_lines_have_phases_and_accuracies() -> None:
    made = replace(progress(), undisturbed_accuracy=0.925, accuracies=[0.92, 0.93], rounds=2)
    lines = "\n".join(last_lines(made.to_record()))
    assert "killed while offering: 2" in lines
    assert "92.50% undisturbed, 92.00% to 93.00% after 2 rounds" in lines
    made.no_accuracy = "no test net has a layer of type Accuracy"
    assert "not observable, no test net" in "\n".join(last_lines(made.to_record()))


def test_the_accuracy_is_that_of_an_accuracy_layer_of_the_test_phase() -> None:
    outputs = (Output("loss", (0.3,), loss_weight=1.0), Output("other", (0.1,)), Output("five", (0.75,)))
    assert accuracy_in((NetTest(text=NET, iterations=1),), outputs) == 0.75
    assert points_below(0.76, 0.75) == pytest.approx(1.0)
