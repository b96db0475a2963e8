"""The level and stages of a command line in a solver's text."""

from __future__ import annotations

from pathlib import Path

import pytest

from gossip_caffe.job.prototxts.prototxt import Document
from gossip_caffe.job.prototxts.solvers import stages_of, with_train_state
from gossip_caffe.job.reading import read_model

LAYERS = """layer { name: "data" type: "DummyData" top: "x" dummy_data_param { shape { dim: 1 } } }
layer { name: "deep" type: "ReLU" bottom: "x" top: "x" include { min_level: 2 stage: "a" } }
"""


@pytest.mark.parametrize(
    ("text", "level", "stages"),
    [
        ("base_lr: 1\n", 2, ("a",)),
        ("base_lr: 1 # the end", 2, ("a",)),
        ('train_state { level: 1 stage: "b" }', 2, ("a",)),
        ('train_state: < stage: "b" level: 7 >; base_lr: 1', 2, ("a",)),
        ('train_state { stage: "a" }\nbase_lr: 1', 2, ()),
        ("train_state { level: 2 }", None, ("a",)),
        ('train_state { }', 2, ("a", "b")),
    ],
)  # fmt: skip
def test_level_and_stages_select_the_layers(
    tmp_path: Path, text: str, level: int | None, stages: tuple[str, ...]
) -> None:
    (tmp_path / "net.prototxt").write_text(LAYERS)
    solver = tmp_path / "solver.prototxt"
    solver.write_text('net: "net.prototxt"\n' + text)
    model = read_model(solver, tmp_path, level=level, stages=stages)
    assert [layer.name for layer in model.train.layers] == ["data", "deep"]
    assert model.train.state.level == 2
    assert [layer.name for layer in read_model(solver, tmp_path).train.layers] == ["data"]
    assert model.solver.text.count("\n") <= solver.read_text().count("\n") + 2
    assert len(model.solver.root.all("train_state")) == 1


def test_without_either_the_text_stays() -> None:
    solver = Document("train_state { level: 1 }", "solver")
    assert with_train_state(solver, None, ()) is solver


def test_the_places_of_what_follows_stay() -> None:
    solver = Document("train_state { level: 1\n }\nmax_iter: 3", "solver")
    changed = with_train_state(solver, 3, ("a",))
    entry = changed.root.last("max_iter")
    assert entry is not None
    assert (entry.line, entry.column) == (3, 1)


def test_stages_are_separated_by_commas() -> None:
    assert stages_of("") == ()
    assert stages_of("a, b,,c") == ("a", "b", "c")
