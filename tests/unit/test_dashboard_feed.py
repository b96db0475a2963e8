"""What the page is told: only what has changed, each reader what it lacks, and a run that grows as it is drawn."""

from __future__ import annotations

import fcntl
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.observe.dashboard import cards, figures
from gossip_caffe.observe.dashboard.feed import Feed
from gossip_caffe.observe.dashboard.server import KEPT_POINTS, Drawing
from gossip_caffe.observe.dashboard.source import QUIET_S, News, RunFolder
from gossip_caffe.observe.dashboard.speed import Speed
from gossip_caffe.observe.history.run import Run
from gossip_caffe.observe.report.gathered import MOST_OF_ONE, Gathered, Thinned
from gossip_caffe.observe.report.history import lifelines, progress
from gossip_caffe.observe.report.many_peers import MOST_LANES
from gossip_caffe.system.name_locks import is_held, name_lock
from tests.fake_clock import FakeClock
from tests.unit.test_report import LOGS, PROGRESS, STARTED, at

PARTS = st.dictionaries(st.sampled_from("abcd"), st.text(max_size=3), max_size=4)


class Told:
    """A source in memory: each look takes the next news."""

    def __init__(self, *news: News) -> None:
        self._news = list(news)

    def look(self) -> News:
        return self._news.pop(0)


def news(*events: dict[str, Any], running: str = "", now: float = 0.0) -> News:
    return News(events, (), frozenset(running.split()), now)


# ── the feed ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(PARTS, max_size=8), st.lists(st.booleans(), min_size=8, max_size=8))
def test_a_reader_that_takes_some_of_the_messages_has_the_newest_of_every_part(
    looks: list[dict[str, str]], reads: list[bool]
) -> None:
    feed, seen, has, wanted = Feed("ab"), 0, dict[str, str](), dict[str, str]()
    for parts, is_read in zip(looks, reads, strict=False):
        feed = feed.advanced(parts)
        wanted |= parts
        if is_read:
            has |= feed.newer_than(seen)
            seen = feed.revision
            assert has == wanted
    assert has | feed.newer_than(seen) == wanted


@given(PARTS)
def test_a_look_that_changes_nothing_is_no_news(parts: dict[str, str]) -> None:
    feed = Feed("ab").advanced(parts)
    assert feed.advanced(parts) is feed
    assert feed.newer_than(feed.revision) == {}


@pytest.mark.parametrize(
    ("last", "revision"),
    [
        ("ab-2", 2),
        ("ab-0", 0),
        ("ab-3", 0),
        ("cd-2", 0),
        ("", 0),
        ("ab-2\r\nx", 0),
        ("ab--1", 0),
        ("ab-" + "9" * 40, 0),
    ],
)
def test_a_reader_of_another_server_or_of_the_future_gets_everything(last: str, revision: int) -> None:
    feed = Feed("ab").advanced({"a": "1"}).advanced({"a": "2"})
    assert feed.revision == 2
    assert feed.revision_of(last) == revision


def test_a_message_is_one_server_sent_event_whatever_is_in_it() -> None:
    message = Feed("ab").advanced({"a": "x\ny\r\n\n", "b": "\u2028"}).message(0).decode()
    head, _, data = message.partition("data: ")
    assert head.splitlines() == ["retry: 1000", "id: ab-1", "event: parts"]
    assert data.endswith("\n\n")
    assert "\n" not in data[:-2]
    assert json.loads(data) == {"a": "x\ny\r\n\n", "b": "\u2028"}


# ── a run that grows ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_that_is_told_piece_by_piece_is_drawn_like_the_same_run_at_once() -> None:
    whole = Gathered.of(Run.of_logs(LOGS))
    grown = Gathered()
    for event in sorted(
        (event for log in LOGS.values() for event in log), key=lambda event: float(event["t"])
    ):
        grown.take(event)
    assert cards.parts_of(grown) == cards.parts_of(whole)


def test_a_peer_whose_process_runs_is_not_killed_and_its_life_goes_on() -> None:
    events = [event for event in LOGS["p10"] if event["event"] != "exchanged"]
    drawing = Drawing(
        Told(news(*events, running="p10", now=20.0), news(running="p10", now=21.0), news(now=22.0))
    )
    assert "was killed" not in drawing.look()["news"]
    assert drawing.gathered.until == 20.0
    drawing.look()
    assert [bar.stop for bar in lifelines(drawing.gathered)[0].bars] == [0.5, 9.0]
    parts = drawing.look()
    assert "p10 was killed at 1.5 s" in parts["news"]
    assert figures.standing(drawing.gathered) == figures.ENDED
    assert [bar.stop for bar in lifelines(drawing.gathered)[0].bars] == [0.5, 1.5]


def test_a_name_that_is_used_again_runs_once() -> None:
    first = [
        at(10.0, "p0", "started", **STARTED),
        at(12.0, "p0", "progress", iteration=1, loss=1.0, **PROGRESS),
    ]
    second = [at(20.0, "p0", "started", **STARTED)]
    drawing = Drawing(Told(news(*first, *second, running="p0", now=21.0)))
    drawing.look()
    killed, running = drawing.gathered.peers["p0"]
    assert (drawing.gathered.runs(killed), drawing.gathered.runs(running)) == (False, True)


def test_no_event_of_a_log_stops_the_page() -> None:
    good = at(10.0, "p0", "started", **STARTED)
    bad: list[dict[str, Any]] = [
        {"event": "progress"}, {"event": "state", "t": "x", "peer": "p0"}, at(11.0, "p0", "state"),
        at(11.0, "p0", "claimed", epoch="x", chunks=3), at(11.0, "p0", "progress", progress_samples="x"),
        at(11.0, "p0", "tested", progress_samples=1, iteration=1, outputs=3), at(11.0, "p0", "progress", loss="much"),
    ]  # fmt: skip
    parts = Drawing(Told(news(*bad, good, *bad, running="p0", now=12.0))).look()
    assert 'class="pill live"' in parts["status"]


HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m\u202e\"'&"


def test_no_text_of_a_log_is_markup_or_steers() -> None:
    events = [
        at(10.0, HOSTILE, "started", **{**STARTED, "job": HOSTILE}),
        at(11.0, HOSTILE, "state", old="joining", new="training", reason="x"),
        at(12.0, HOSTILE, "solver-died", cause=HOSTILE, sequences_lost=[0, 0]),
        at(13.0, HOSTILE, "progress", iteration=3, loss=0.5, learning_rate=0.1, **PROGRESS),
        at(14.0, HOSTILE, "exchanged", exchange="e", partner="p", side="answered", outcome="refused", refusal=HOSTILE),
        at(14.5, HOSTILE, "tested", progress_samples=1, iteration=1, outputs=[
            {"name": HOSTILE, "means": [0.9], "values": 1, "loss_weight": 0.0, "net": 0}]),
        at(15.0, HOSTILE, "left", reason=HOSTILE, error=""),
    ]  # fmt: skip
    parts = Drawing(Told(news(*events))).look()
    text = "".join(parts.values())
    assert "<img" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "&lt;img" in text
    for name in ("peers", "loss", "tests"):
        ElementTree.fromstring(parts[name].partition("</svg>")[0] + "</svg>")


def test_the_page_and_the_memory_of_a_crowd_are_bounded() -> None:
    events = [
        event
        for number in range(300)
        for event in (
            at(10.0, f"p{number}", "started", **STARTED),
            at(11.0, f"p{number}", "state", old="joining", new="training", reason="x"),
            *(
                at(
                    12.0 + second,
                    f"p{number}",
                    "progress",
                    iteration=second,
                    loss=1.0,
                    learning_rate=0.1,
                    **PROGRESS,
                )
                for second in range(140)
            ),
        )
    ]
    everyone = " ".join(f"p{number}" for number in range(300))
    drawing = Drawing(Told(news(*events, running=everyone, now=170.0)))
    parts = drawing.look()
    assert sum(len(html) for html in parts.values()) < 300_000
    assert parts["peers"].count("<rect") <= 2 * MOST_LANES
    kept = sum(len(life.figures["loss"].points()) for life in drawing.gathered.lives())
    assert kept < 3 * KEPT_POINTS
    assert "300" in parts["tiles"]


@given(st.lists(st.floats(-1e6, 1e6), max_size=300), st.integers(1, 20))
def test_thinned_points_are_few_in_order_and_end_with_the_newest(values: list[float], most: int) -> None:
    points = Thinned(most)
    for number, value in enumerate(values):
        points.add(float(number), value)
    found = points.points()
    assert len(found) <= 2 * most + 1
    assert found == sorted(found)
    assert set(found) <= {(float(number), value) for number, value in enumerate(values)}
    assert not values or found[-1] == (len(values) - 1.0, values[-1])


def test_a_day_of_one_peer_keeps_as_much_as_an_hour() -> None:
    gathered = Gathered(KEPT_POINTS)
    gathered.take(at(0.0, "p0", "started", **STARTED))
    for second in range(20_000):
        gathered.take(
            at(float(second), "p0", "progress", iteration=second, loss=1.0, learning_rate=0.1, **PROGRESS)
        )
        gathered.take(at(float(second), "p0", "claimed", epoch=0, chunks=[second], revisions=[1], lease=1))
        gathered.take(at(second + 0.5, "p0", "done", epoch=0, chunks=[second], revisions=[1], via="x"))
    (life,) = gathered.lives()
    assert len(progress(gathered, "loss")[0].points) <= 2 * MOST_OF_ONE + 1
    assert len(life.owned) <= 2 * MOST_OF_ONE + 1
    assert life.owned[0][0] == 0.0
    assert life.settled_chunks == 20_000


def test_the_speed_is_that_of_the_last_seconds_and_none_when_nothing_is_new() -> None:
    speed = Speed()
    assert speed.samples_per_s(0.0) is None
    for second in range(40):
        speed.take(at(float(second), "p0", "progress", progress_samples=100 * second))
    assert speed.samples_per_s(39.0) == pytest.approx(100.0)
    speed.take(at(40.0, "p1", "progress", progress_samples=3000))  # it has not seen what p0 has
    assert speed.samples_per_s(40.0) == pytest.approx(1400 / 15)
    assert speed.samples_per_s(100.0) is None


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (-1, "0 s")]
)
def test_a_length_of_time_is_told_in_two_units(seconds: float, told: str) -> None:
    assert figures.duration(seconds) == told


# ── a run folder ──────────────────────────────────────────────────────────────────────────────────────────────────────


def write(folder: Path, peer: str, *events: dict[str, Any]) -> None:
    (folder / "events").mkdir(exist_ok=True)
    with (folder / "events" / f"{peer}.jsonl").open("a") as log:
        log.writelines(json.dumps(event) + "\n" for event in events)


async def test_a_peer_runs_while_it_holds_its_lock(tmp_path: Path) -> None:
    clock = FakeClock()
    write(tmp_path, "p0", at(clock.wall(), "p0", "started", **STARTED))
    lock = name_lock(tmp_path, "p0")
    lock.parent.mkdir()
    with lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        source = RunFolder(tmp_path, clock)
        await clock.advance(10 * QUIET_S)  # a peer that is stopped says nothing, and is not dead
        found = source.look()
        assert found.running == {"p0"}
        assert [event["event"] for event in found.events] == ["started"]
        assert source.look().events == []
    assert source.look().running == frozenset()


async def test_a_peer_whose_lock_is_not_seen_runs_until_it_is_quiet(tmp_path: Path) -> None:
    clock = FakeClock()
    write(tmp_path, "p0", at(clock.wall(), "p0", "started", **STARTED))
    source = RunFolder(tmp_path, clock)
    assert source.look().running == {"p0"}
    await clock.advance(QUIET_S + 1)
    assert source.look().running == frozenset()


def test_of_several_jobs_the_newest_is_shown_or_the_one_that_is_named(tmp_path: Path) -> None:
    for second, job in enumerate(("old", "new")):
        write(tmp_path, "p0", at(10.0 + second, "p0", "started", **{**STARTED, "job": job}))
    shown = [
        [event["job"] for event in RunFolder(tmp_path, FakeClock(), job).look().events] for job in ("", "old")
    ]
    assert shown == [["new"], ["old"]]


def test_what_an_observer_measured_is_drawn_too(tmp_path: Path) -> None:
    write(tmp_path, "p0", at(10.0, "p0", "started", **STARTED))
    (tmp_path / "observer.jsonl").write_text('{"t":11.0,"event":"consensus","distance":0.001,"peers":3}\n')
    parts = Drawing(RunFolder(tmp_path, FakeClock())).look()
    assert "measured over all peers" in parts["distance"]


def test_a_lock_that_is_no_file_of_ours_is_not_known(tmp_path: Path) -> None:
    assert is_held(tmp_path / "none") is None
    (tmp_path / "link").symlink_to("/etc/hostname")
    assert is_held(tmp_path / "link") is None
