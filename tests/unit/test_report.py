"""The page of a run: whole, of one piece, and true to the history it is drawn from."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from gossip_caffe.observe.checker.verdict import CHECKS, verdict_on
from gossip_caffe.observe.history.run import Run
from gossip_caffe.observe.report.chart import Bar, Lane, Series, lanes, lines, thinned, ticks
from gossip_caffe.observe.report.gathered import Gathered
from gossip_caffe.observe.report.history import (
    OF_THE_KILLED,
    OWNED,
    consensus_tests,
    lifelines,
    ownership,
    progress,
)
from gossip_caffe.observe.report.many_peers import MOST_LANES, chosen, summed
from gossip_caffe.observe.report.page import page, report_of

VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Every tag of a page, and what is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, {name: value or "" for name, value in attributes}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, {name: value or "" for name, value in attributes}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


def at(t: float, peer: str, event: str, **fields: object) -> dict[str, Any]:
    return {"t": t, "m": t, "peer": peer, "event": event, **fields}


STARTED = {"pid": 1, "schema": 2, "job": "j", "budget_samples": 200, "records": 100, "chunk_records": 50}
OUTPUT = {"name": "accuracy", "means": [0.91], "values": 1, "loss_weight": 0.0, "net": 0}
LOSS = {"name": "loss", "means": [0.3], "values": 1, "loss_weight": 1.0, "net": 0}
PROGRESS = {"samples": 1, "stalled_share": 0.0, "progress_samples": 1, "distance": 1e-4}
LOGS = {
    "p0": [
        at(10.0, "p0", "started", **STARTED),
        at(11.0, "p0", "founded", checkpoint="c", digest="d", layout="l"),
        at(11.5, "p0", "state", old="syncing", new="training", reason="synced"),
        at(12.0, "p0", "claimed", epoch=0, chunks=[0, 1], revisions=[5, 5], lease=1),
        at(13.0, "p0", "progress", iteration=3, loss=0.5, learning_rate=0.1, **PROGRESS),
        at(14.0, "p0", "progress", iteration=9, loss=0.4, learning_rate=0.1, **PROGRESS),
        at(14.5, "p0", "done", epoch=0, chunks=[0, 1], revisions=[5, 5], via="x"),
        at(15.0, "p0", "tested", progress_samples=100, iteration=9, outputs=[OUTPUT, LOSS], seconds=1.0),
        at(18.0, "p0", "left", reason="<b>asked</b> & gone", error=""),
    ],
    "p10": [
        at(12.0, "p10", "started", **STARTED),
        at(12.5, "p10", "state", old="syncing", new="training", reason="synced"),
        at(13.0, "p10", "solver-died", cause="killed", sequences_lost=[0, 0]),
        at(13.5, "p10", "claimed", epoch=1, chunks=[1], revisions=[6], lease=2),
        at(
            16.0,
            "p10",
            "exchanged",
            exchange="e",
            partner="p0",
            side="offered",
            outcome="failed",
            reason="cut",
        ),
    ],
    "p2": [at(12.0, "p2", "started", **STARTED), at(13.0, "p2", "left", reason="drained", error="")],
}


@pytest.fixture
def run() -> Run:
    return Run.of_logs(LOGS)


def test_the_page_is_whole_and_fetches_and_runs_nothing(run: Run) -> None:
    text = page(run, verdict_on(run), "A <run> & more")
    reader = read(text)
    tags = {tag for tag, _ in reader.seen}
    assert not tags & {"script", "link", "img", "iframe", "object", "image"}
    for _, attributes in reader.seen:
        assert not {"src", "href", "onload", "onclick"} & set(attributes)
    assert "url(" not in text
    assert "@import" not in text
    assert "<b>asked" not in text
    assert "A <run> & more" in "".join(reader.text)


def test_every_drawing_of_the_page_is_well_formed(run: Run) -> None:
    text = page(run, verdict_on(run), "A run")
    drawings = text.split("<svg")[1:]
    assert len(drawings) == 8
    for drawing in drawings:
        ElementTree.fromstring("<svg" + drawing.partition("</svg>")[0] + "</svg>")


def test_the_page_names_every_invariant_and_every_peer(run: Run) -> None:
    reader = read(page(run, verdict_on(run), "A run"))
    named = {attributes.get("id") for tag, attributes in reader.seen if tag == "tr"}
    assert {check.__name__.replace("_", "-") for check in CHECKS} <= named
    assert {"p0", "p2", "p10"} <= set(reader.text)


def test_a_lifeline_tells_joining_training_and_the_end(run: Run) -> None:
    rows = {lane.name: lane for lane in lifelines(Gathered.of(run))}
    assert list(rows) == ["p0", "p2", "p10"]
    assert [(bar.kind, bar.start, bar.stop) for bar in rows["p0"].bars] == [
        ("joining", 0.0, 1.5),
        ("training", 1.5, 8.0),
    ]
    assert [mark.kind for mark in rows["p0"].marks] == ["joined", "left"]
    assert [mark.kind for mark in rows["p10"].marks] == ["solver died", "killed"]
    assert rows["p10"].marks[-1].at == 6.0


def test_ownership_ends_with_the_settlement_and_what_the_dead_left_is_marked(run: Run) -> None:
    rows = {lane.name: lane for lane in ownership(Gathered.of(run))}
    assert [(bar.kind, bar.start, bar.stop) for bar in rows["p0"].bars] == [(OWNED, 2.0, 4.5)]
    assert [(bar.kind, bar.start, bar.stop) for bar in rows["p10"].bars] == [(OWNED, 3.5, 6.0)]
    assert [(mark.kind, mark.at) for mark in rows["p10"].marks] == [(OF_THE_KILLED, 6.0)]
    assert not rows["p0"].marks


def test_tests_are_drawn_without_their_losses(run: Run) -> None:
    assert consensus_tests(Gathered.of(run)) == [Series("accuracy", [(100.0, 0.91)])]


def test_what_is_broken_is_shown_with_its_history() -> None:
    twice = [*LOGS["p2"][:1], at(13.0, "p2", "claimed", epoch=0, chunks=[0], revisions=[5], lease=3)]
    run = Run.of_logs({**LOGS, "p2": twice})
    found = verdict_on(run)
    assert found.broken
    reader = read(page(run, found, "A run"))
    assert any(attributes.get("class") == "broken" for _, attributes in reader.seen)
    assert any("claimed" in text for text in reader.text)


def test_a_report_is_made_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    for peer, events in LOGS.items():
        (tmp_path / "events" / f"{peer}.jsonl").write_text("\n".join(map(json.dumps, events)) + "\n")
    assert "3 peers in 8 s" in report_of(tmp_path)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 768_000), (-4, -1.2), (0.00031, 0.00032)])
def test_ticks_are_few_round_numbers_within_the_range(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 11
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


def test_a_long_line_is_thinned_and_keeps_its_end() -> None:
    points = [(float(x), 1.0) for x in range(10_000)]
    assert len(thinned(points)) <= 602
    assert thinned(points)[-1] == points[-1]
    assert thinned([(0.0, float("nan")), (1.0, 2.0)]) == [(1.0, 2.0)]


def test_of_many_peers_the_page_names_those_to_whom_something_happened_and_sums_up_the_lines() -> None:
    logs = {
        f"p{number}": [
            at(10.0, f"p{number}", "started", **STARTED),
            at(20.0, f"p{number}", "progress", iteration=3, loss=0.1 * number, learning_rate=0.1, **PROGRESS),
            at(90.0, f"p{number}", "left", reason="drained", error=""),
        ]
        for number in range(300)
    }
    logs["p250"].pop()
    seen = [{"t": 30.0, "event": "consensus", "distance": 1e-3, "peers": 300}]
    run = Run.of_logs(logs, seen=seen)
    crowd = Gathered.of(run)
    named = chosen(crowd)
    assert len(named) == MOST_LANES
    assert {"p250", "p0", "p1"} <= named
    assert "p200" not in named
    lowest, median, highest = summed(progress(crowd, "loss"))
    assert lowest.points[0][1] == 0.0
    assert highest.points[0][1] == pytest.approx(29.9)
    assert median.points[0][1] == pytest.approx(15.0, abs=0.2)
    text = page(run, verdict_on(run), "crowd")
    assert "measured over all peers" in text
    assert len(text) < 300_000
    read(text)


def test_charts_without_anything_in_them_are_left_out() -> None:
    assert lines("x", [], "s") == ""
    assert lines("x", [Series("a", [(1.0, 0.0)])], "s", logarithmic=True) == ""
    assert lanes("x", [], 1.0, []) == ""
    assert "<rect" in lanes("x", [Lane("a", [Bar(0.0, 1.0, "k")])], 0.0, ["k"])
