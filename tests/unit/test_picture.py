"""Lifelines from events, and the picture's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from gossip_caffe.observe.report.picture import (
    Curve,
    LifeEnd,
    Lifeline,
    RunPicture,
    accuracy_floor,
    draw,
    lifelines_of,
)

EVENTS: dict[str, list[dict[str, object]]] = {
    "p1": [
        {"t": 100.0, "event": "started"},
        {"t": 102.0, "event": "joined"},
        {"t": 103.0, "event": "exchanged", "side": "offered", "outcome": "applied"},
        {"t": 103.5, "event": "exchanged", "side": "answered", "outcome": "applied"},
        {"t": 104.0, "event": "exchanged", "side": "offered", "outcome": "timeout"},
        {"t": 110.0, "event": "trained"},
    ],
    "p0": [
        {"t": 99.0, "event": "started"},
        {"t": 101.0, "event": "founded"},
        {"t": 120.0, "event": "finished"},
        {"t": 121.0, "event": "left"},
    ],
    "p2": [{"t": 111.0, "event": "started"}, {"t": 112.0, "event": "left"}],
    "p3": [],
}


def test_lifelines_begin_at_the_first_event_of_the_run() -> None:
    lines = {line.peer: line for line in lifelines_of(EVENTS)}
    assert list(lines) == ["p0", "p1", "p2"]
    assert lines["p0"] == Lifeline("p0", 0.0, 2.0, 22.0, LifeEnd.FINISHED)
    assert lines["p1"].started_s == 1.0


def test_a_peer_that_said_no_farewell_was_killed() -> None:
    assert [line.end for line in lifelines_of(EVENTS)] == [LifeEnd.FINISHED, LifeEnd.KILLED, LifeEnd.LEFT]


def test_only_exchanges_that_the_peer_started_and_that_were_applied_are_ticks() -> None:
    assert [line.exchanges_s for line in lifelines_of(EVENTS)] == [(), (4.0,), ()]


def test_no_events_are_no_lifelines() -> None:
    assert lifelines_of({}) == ()


def test_the_accuracy_axis_shows_every_settled_point() -> None:
    steep = Curve("a", tuple((index, value) for index, value in enumerate([0.1, 0.7, *[0.98] * 14])))
    assert accuracy_floor([steep]) == 0.95
    assert accuracy_floor([Curve("b", ((0, 0.4),))]) == pytest.approx(0.39)
    assert accuracy_floor([]) == 0.0


def test_a_picture_is_drawn_also_of_a_run_that_hardly_was(tmp_path: Path) -> None:
    curves = (Curve("consensus", ((1000, 0.9), (2000, 0.97))), Curve("single", ()))
    for name, picture in {
        "whole": RunPicture("digits", curves, lifelines_of(EVENTS), frozenset({"p1"})),
        "empty": RunPicture("nothing", (), ()),
    }.items():
        path = tmp_path / "folder" / f"{name}.png"
        draw(picture, path)
        assert path.read_bytes().startswith(b"\x89PNG")
