"""Where a chaos run stands is kept whole, and its last lines say it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gossip_caffe.cluster.chaos_accuracy import accuracy_in, points_below
from gossip_caffe.cluster.chaos_phases import Phase
from gossip_caffe.cluster.chaos_scenario import Act, Fault, Scenario, schedule
from gossip_caffe.cluster.chaos_standing import Standing, last_lines
from gossip_caffe.errors import Conflict, EnvironmentProblem
from gossip_caffe.job.spec import NetTest
from gossip_caffe.observe.tested import Output

NET = """layer { name: "data" type: "DummyData" top: "data" top: "label" include { phase: TEST } }
layer { name: "five" type: "Accuracy" bottom: "data" bottom: "label" top: "five" include { phase: TEST } }
layer { name: "train" type: "Accuracy" bottom: "data" bottom: "label" top: "other" include { phase: TRAIN } }
"""


def standing() -> Standing:
    scenario = Scenario("some", faults=(Fault(Act.KILL, 2, ("agent",)), Fault(Act.RESET)))
    made = Standing({"name": "some"})
    for stroke in schedule(scenario):
        made.count(stroke, Phase.OFFERING)
    return made


def test_kills_are_counted_by_what_was_struck_and_by_its_phase() -> None:
    made = standing()
    assert (made.dealt, made.kills, made.phases) == (3, {"agent": 2}, {"offering": 2})
    assert made.others == {"reset": 1}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    folder = tmp_path / "taken" / "run"
    with pytest.raises(EnvironmentProblem, match="taken/run"):
        Standing.read(folder, {"name": "some"}).write(folder)


def test_what_was_kept_is_read_again_and_only_for_the_same_scenario(tmp_path: Path) -> None:
    made = standing()
    made.write(tmp_path)
    assert Standing.read(tmp_path, {"name": "some"}) == made
    with pytest.raises(Conflict, match="another scenario"):
        Standing.read(tmp_path, {"name": "other"})


def test_the_last_lines_have_phases_and_accuracies() -> None:
    made = replace(standing(), undisturbed_accuracy=0.925, accuracies=[0.92, 0.93], rounds=2)
    lines = "\n".join(last_lines(made.to_record()))
    assert "killed while offering: 2" in lines
    assert "92.50% undisturbed, 92.00% to 93.00% after 2 rounds" in lines
    made.no_accuracy = "no test net has a layer of type Accuracy"
    assert "not observable, no test net" in "\n".join(last_lines(made.to_record()))


def test_the_accuracy_is_that_of_an_accuracy_layer_of_the_test_phase() -> None:
    outputs = (Output("loss", (0.3,), loss_weight=1.0), Output("other", (0.1,)), Output("five", (0.75,)))
    assert accuracy_in((NetTest(text=NET, iterations=1),), outputs) == 0.75
    assert points_below(0.76, 0.75) == pytest.approx(1.0)
