"""What views show, as pure functions: changes, losses, columns, orders, keys and pages."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.status import PeerStatus
from gossip_caffe.observe.views.event_words import NOTABLE, line_of, words_of
from gossip_caffe.observe.views.rows import SORTED_BY, TREND, Order, brief_duration, table
from gossip_caffe.observe.views.screen import Pressed, ScreenState, Style, Wish, page, press
from gossip_caffe.observe.views.snapshot import PeerView, Snapshot, natural
from gossip_caffe.observe.views.sparkline import ASCII, BLOCKS, sparkline
from gossip_caffe.observe.views.watched import (
    MOST_HAPPENINGS,
    MOST_LOSSES,
    Watched,
    advanced,
    begun,
    changes,
    without_store,
)
from gossip_caffe.observe.views.words import details, figures, headline


def status(peer: str, **fields: object) -> PeerStatus:
    known: dict[str, object] = {
        "iteration": 100,
        "samples_per_s": 50.0,
        "steady_samples_per_s": 50.0,
        "loss": 0.5,
        "budget_samples": 10_000,
        "progress_samples": 2_500,
        "chunks_owned": 3,
        "chunks_done": 12,
        "consensus_distance": 1.5e-5,
        "exchanged_with": "p9",
        "exchanged_s_ago": 3.2,
    }
    return PeerStatus(peer, "training", **{**known, **fields})  # type: ignore[arg-type]


def peer(name: str, state: str = "training", **fields: object) -> PeerView:
    found = status(name, **fields)
    return PeerView(name, state, incarnation=f"i-{name}", host="box", pid=7, share=0.25, status=found)


def snapshot(*peers: PeerView, **fields: object) -> Snapshot:
    return Snapshot("mnist", 1000.0, peers, 10_000, **fields)  # type: ignore[arg-type]


def words(before: Snapshot, after: Snapshot) -> list[str]:
    return [entry.words for entry in changes(before, after)]


def test_each_change_of_the_members_is_one_line() -> None:
    before = snapshot(peer("p0"), peer("p1"), peer("p2", "draining"), peer("p3"))
    after = snapshot(peer("p0"), peer("p3", "draining"), peer("p4", "joining"))
    assert words(before, after) == [
        "p1 is gone; other peers train its data",
        "p2 has left",
        "p3: training → draining",
        "p4 joins from box (joining)",
    ]
    assert [entry.alarming for entry in changes(before, after)] == [True, False, False, False]
    assert words(after, after) == []


def test_a_peer_that_took_a_gone_ones_name_is_another_one() -> None:
    again = replace(peer("p0"), incarnation="i-later")
    assert words(snapshot(peer("p0")), snapshot(again)) == [
        "p0 is gone; other peers train its data",
        "p0 joins from box (training)",
    ]


def test_troubles_checkpoints_and_the_end_are_lines_of_their_own() -> None:
    before = snapshot(peer("p0"), peer("p1"))
    after = snapshot(
        peer("p0", trouble="p0: the disk is full", checkpoint="0100-p0-a"),
        peer("p1", solver_restarts=1, checkpoint="0100-p0-a"),
        refuses="etcd is full; free some space",
        finished="0100-p0-a",
    )
    assert words(before, after) == [
        "p0: the disk is full",
        "p1: its solver died and was started again (1 more)",
        "checkpoint 0100-p0-a is there",
        "etcd is full; free some space",
        "the job is finished: checkpoint 0100-p0-a",
    ]
    assert words(after, after) == []


def test_a_loss_is_kept_for_each_look_at_which_the_peer_had_gone_on() -> None:
    watched = begun(snapshot(peer("p0", loss=3.0)))
    watched = advanced(watched, snapshot(peer("p0", loss=3.0)))  # the same iteration
    watched = advanced(watched, snapshot(peer("p0", loss=2.0, iteration=101), peer("p1", loss=9.0)))
    assert watched.losses == {"i-p0": (3.0, 2.0), "i-p1": (9.0,)}
    watched = advanced(watched, snapshot(peer("p1", loss=8.0, iteration=101)))
    assert watched.losses == {"i-p1": (9.0, 8.0)}
    for number in range(2 * MOST_HAPPENINGS):
        there = (peer("p1", loss=float(number), iteration=number), *([peer("p7")] if number % 2 else []))
        watched = advanced(watched, snapshot(*there))
    assert len(watched.losses["i-p1"]) == MOST_LOSSES
    assert len(watched.happenings) == MOST_HAPPENINGS


def test_an_absence_of_etcd_is_said_once_and_its_return_too() -> None:
    watched = begun(snapshot(peer("p0")))
    watched = without_store(without_store(watched, "no answer", 1001.0), "no answer", 1002.0)
    assert [entry.words for entry in watched.happenings] == ["etcd is away: no answer"]
    assert "etcd is away" in figures(watched)
    watched = advanced(watched, snapshot(peer("p0")))
    assert [entry.words for entry in watched.happenings][1:] == ["etcd answers again"]
    assert "away" not in figures(watched)


@example([3.7e307, -1.43e308], 2)
@example([1.7e308] * 3, 1)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=300), st.integers(1, 40))
def test_a_sparkline_is_never_too_wide_and_spans_its_values(values: list[float], width: int) -> None:
    drawn = sparkline(values, width)
    assert len(drawn) <= width
    assert set(drawn) <= set(BLOCKS)
    assert bool(drawn) == any(map(math.isfinite, values))
    assert set(sparkline(values, width, unicode=False)) <= set(ASCII)


def test_a_sparkline_falls_as_the_loss_does_and_its_newest_values_are_whole() -> None:
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1], 8) == "█▇▆▅▄▃▂▁"
    assert sparkline([1, 1, 1], 8) == "▁▁▁"
    assert sparkline([9, 9, 9, 5, 5, 1, 1], 4) == "██▅▁"


def some_watched(count: int = 4) -> Watched:
    watched = begun(snapshot(*(peer(f"p{number}", loss=2.0) for number in range(count))))
    return advanced(
        watched,
        snapshot(*(peer(f"p{number}", loss=1.0 / (1 + number), iteration=200) for number in range(count))),
    )


@given(st.integers(1, 200), st.integers(0, 30))
def test_a_table_fits_any_width_and_always_names_the_peers(width: int, count: int) -> None:
    shown = table(some_watched(count), Order(), width)
    assert shown.headings[0] == "PEER"
    lines = [shown.line(row) for row in (shown.headings, *shown.rows)]
    assert max(map(len, lines)) <= max(width, 4)
    assert [row[0] for row in shown.rows] == list(shown.peers) == sorted(shown.peers, key=natural)


def test_a_wide_table_has_all_columns_and_a_narrow_one_the_most_important() -> None:
    wide = table(some_watched(), Order(), 120)
    assert " ".join(wide.headings) == "PEER STATE DEV ITER SMP/S LOSS TREND SHARE CHUNKS EXCHANGE DIST"
    assert wide.rows[1] == (
        "p1",
        "training",
        "cpu",
        "200",
        "50",
        "0.5000",
        "█▁",
        "25%",
        "3/12",
        "3s p9",
        "2e-05",
    )
    usual = table(some_watched(), Order(), 80)
    assert len(usual.line(usual.headings)) <= 80
    assert set(usual.headings) == set(wide.headings)
    narrow = table(some_watched(), Order(), 40)
    assert " ".join(narrow.headings) == "PEER STATE ITER SMP/S LOSS TREND"
    assert TREND not in table(begun(snapshot(peer("p0"))), Order(), 120).headings


@pytest.mark.parametrize("by", SORTED_BY)
def test_rows_are_sorted_by_any_of_these_columns_and_peers_without_a_value_come_last(by: str) -> None:
    unknown = PeerView("p00", "training")
    peers = [peer("p0", loss=1.0, iteration=5), peer("p1", loss=2.0, iteration=9), unknown]
    order = Order(by)
    forward, backward = order.arrange(peers), order.reversed().arrange(peers)
    assert sorted(one.peer for one in forward) == ["p0", "p00", "p1"]
    if by not in {"PEER", "STATE"}:
        assert forward[-1] is backward[-1] is unknown
    if by in {"LOSS", "ITER"}:
        assert [one.peer for one in forward] == ["p1", "p0", "p00"]
        assert [one.peer for one in backward] == ["p0", "p1", "p00"]
    after = order
    for _ in SORTED_BY:
        after = after.next()
    assert after == order


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.44, "0.4s"),
        (12.9, "12s"),
        (200, "3m"),
        (7200, "2h"),
        (864000, "10d"),
        (math.nan, "?"),
        (-1, "?"),
        (1e300, "?"),
    ],
)
def test_any_number_of_seconds_is_short(seconds: float, shown: str) -> None:
    assert brief_duration(seconds) == shown


# ── keys and pages ────────────────────────────────────────────────────────────────────────────────────────────────────

NAMES = ("p0", "p1", "p2")


def after(*keys: str, state: ScreenState | None = None) -> Pressed:
    pressed = Pressed(state or ScreenState())
    for key in keys:
        pressed = press(pressed.state, key, NAMES)
    return pressed


def test_the_arrows_select_within_the_rows() -> None:
    assert after("down").state.selected == "p1"
    assert after("down", "down", "down", "down").state.selected == "p2"
    assert after("end", "up").state.selected == "p1"
    assert after("end", "home", "up").state.selected == "p0"
    assert press(ScreenState("gone"), "down", NAMES).state.selected == "p1"
    assert press(ScreenState("p1"), "down", ()).state.selected == ""


def test_a_drain_is_asked_for_and_only_y_confirms_it() -> None:
    asked = after("down", "d")
    assert asked.wish is None
    assert asked.state.question is not None
    assert asked.state.question.words.startswith("drain p1?")
    done = after("down", "d", "y")
    assert (done.wish, done.peer, done.state.question) == (Wish.DRAIN, "p1", None)
    for key in ("n", "escape", "enter", "q", "k", "down"):
        denied = after("down", "d", key)
        assert (denied.wish, denied.state.question) == (None, None)
        assert denied.state.note == "nothing was done to p1"
        assert denied.state.selected == "p1"


def test_a_kill_first_finds_its_process() -> None:
    assert (after("k").wish, after("k").peer) == (Wish.FIND, "p0")
    assert press(ScreenState(), "k", ()).wish is None
    assert press(ScreenState(), "d", ()).state.question is None


def test_q_quits_and_other_keys_do_nothing() -> None:
    assert after("q").wish is Wish.QUIT
    for key in ("x", "Y", "f1", "é", ""):
        assert after(key) == Pressed(ScreenState("p0"))
    assert after("s").state.order == Order("SMP/S")
    assert after("s", "r").state.order == Order("SMP/S", reverse=True)
    assert after("enter").state.inspected
    assert not after("enter", "escape").state.inspected


@given(st.integers(1, 160), st.integers(1, 60), st.integers(0, 40), st.booleans())
def test_a_page_is_as_high_as_the_terminal_and_holds_the_selected_row(
    width: int, height: int, count: int, inspecting: bool
) -> None:
    watched = some_watched(count)
    watched = advanced(watched, snapshot(*watched.snapshot.peers[: count - count // 3]))
    names = [one.peer for one in watched.snapshot.peers]
    state = ScreenState(names[len(names) // 2] if names else "", inspected=inspecting)
    lines = page(watched, state, width, height)
    assert len(lines) == height
    if height >= 5 and names and not inspecting:
        assert [line.text.split()[0] for line in lines if line.style is Style.SELECTED] == [state.selected]


def test_a_small_page_still_has_the_peers_the_newest_event_and_the_way_out() -> None:
    watched = advanced(some_watched(4), snapshot(peer("p0"), peer("p1"), peer("p2")))
    lines = [line.text for line in page(watched, ScreenState(), 40, 12)]
    assert lines[0].startswith("job mnist: 25% of 10,000 samples, ")
    assert [line.split()[0] for line in lines[3:6]] == ["p0", "p1", "p2"]
    assert any(line.endswith("p3 is gone; other peers train its data") for line in lines)
    assert lines[-1] == "q quit  d drain  k kill  s sort"


def test_all_about_a_peer_is_shown_without_what_is_unknown() -> None:
    found = dict(details(peer("p0", waits_for="a test")))
    assert found["place"] == "pid 7 on box"
    assert found["last exchange"] == "3s ago, with p9"
    assert found["waits for"] == "a test"
    assert "trouble" not in found
    assert dict(details(PeerView("p1", "joining", host="box")))["state"] == "joining"


def test_the_headline_says_how_far_a_job_is_and_what_to_do_without_a_peer() -> None:
    assert headline(snapshot(peer("p0"), peer("p1"))) == "job mnist: 25% of 10,000 samples, 0:01:15 left"
    assert headline(snapshot(peer("p0", waits_for="a test"))).endswith("left, waits for a test")
    assert "no peer is alive; 'gossip-caffe peer start --job mnist'" in headline(snapshot())
    assert headline(snapshot(finished="c")) == "job mnist: finished, checkpoint c"


# ── events of the log ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_events_of_the_log_become_lines() -> None:
    assert words_of({"event": "state", "old": "joining", "new": "syncing", "reason": "built", "t": 1}) == (
        "joining → syncing (built)"
    )
    lost = {"event": "member", "member": "p1", "old": "training", "new": "", "lost": True}
    assert words_of(lost) == "sees p1: training → gone; its lease ended while it trained"
    assert words_of({"event": "tested", "iteration": 1000}) == "iteration 1,000: an output of another version"
    assert words_of({"event": "left", "t": 1, "m": 2, "peer": "p0", "reason": "done", "error": ""}) == (
        "reason=done error="
    )
    assert len(words_of({"event": "resumed", "done": list(range(1000))})) < 80
    assert line_of({"event": "started", "peer": "p0", "t": 0.0, "pid": 3}).endswith(" p0 started pid=3")
    assert line_of({"event": "started", "t": "x"}).startswith("? ? started")


def test_events_of_each_batch_are_not_notable_and_all_deaths_are() -> None:
    assert not {Event.TRAINED, Event.EXCHANGED, Event.PROGRESS} & NOTABLE
    assert {Event.SOLVER_DIED, Event.LEASE_LOST, Event.LEFT, Event.JOINED, Event.CHECKPOINTED} <= NOTABLE
