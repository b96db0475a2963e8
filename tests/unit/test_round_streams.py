"""The streams of words to the leader of rounds: who is refused, and when, and who is silent."""

from __future__ import annotations

from gossip_caffe.clock import SystemClock
from gossip_caffe.gossip.rounds.streams import BEGINS_TO_LEAD_S, SILENT_S, Attending, Streams
from gossip_caffe.gossip.rounds.words import Word, WordKind

READY = Word(WordKind.READY)


def streams(*attending: Attending) -> Streams:
    made = Streams(
        "p0",
        "job",
        "layout",
        lambda peer: f"{peer}:1",
        heard=lambda mine, word: None,
        left=lambda peer: None,
        clock=SystemClock(),
    )
    made.attending.update({mine.peer: mine for mine in attending})
    return made


def test_a_member_that_comes_before_this_peer_leads_is_not_refused_at_once() -> None:
    mine = Attending("p1", ready=READY, ready_at=10.0)
    made = streams(mine)
    made.refuse_waiting(10.0 + 0.9 * BEGINS_TO_LEAD_S)
    assert mine.words.empty()
    made.refuse_waiting(10.0 + 1.1 * BEGINS_TO_LEAD_S)
    assert (word := mine.words.get_nowait()) is not None
    assert word.kind is WordKind.REFUSED
    made.refuse_waiting(11.0)
    assert mine.words.empty()


def test_a_member_is_silent_that_is_asked_and_has_vanished_from_the_view() -> None:
    asked, steps, leaves = Attending("p1"), Attending("p2"), Attending("p3", ready=READY)
    joins = Attending("p4")
    made = streams(asked, steps, leaves, joins)
    assert made.silent({"p0", "p1", "p2", "p3"}, 1.0) == []
    steps.heard_at = 10.0
    assert made.silent({"p0"}, 10.0 + 0.9 * SILENT_S) == ["p1"]
    assert made.silent({"p0"}, 10.0 + 1.1 * SILENT_S) == ["p1", "p2"]
