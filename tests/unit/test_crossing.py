"""Of two peers' overlapping exchanges exactly one takes place: the rules, one by one."""

from __future__ import annotations

from gossip_caffe.gossip.codecs.message import Message
from gossip_caffe.gossip.protocol.crossing_offers import REMEMBERED, Crossing


def offer(exchange_id: str, peer: str, answered: str = "") -> Message:
    return Message(exchange_id, peer, "job", "layout", answered=answered)


def test_without_an_own_offer_nothing_is_objected_to() -> None:
    assert Crossing("a").objection(offer("1", "b")) is None


def test_offers_of_others_are_welcome_while_an_own_one_is_in_flight_elsewhere() -> None:
    a = Crossing("a")
    a.begin("own", "c")
    assert a.objection(offer("1", "b")) is None
    assert a.accept(offer("1", "b")) == ""
    assert a.own is not None
    assert not a.own.withdrawn


def test_the_offer_of_the_lower_id_stands() -> None:
    a = Crossing("a")
    a.begin("own", "b")
    assert a.objection(offer("1", "b")) == "the offer of a stands"


def test_the_offer_of_the_higher_id_is_withdrawn_and_the_answer_says_so() -> None:
    b = Crossing("b")
    own = b.begin("own", "a")
    assert b.objection(offer("1", "a")) is None
    assert b.accept(offer("1", "a")) == "own"
    assert own.withdrawn


def test_an_offer_whose_sender_has_answered_the_own_one_comes_too_late_whatever_the_ids() -> None:
    b = Crossing("b")
    b.begin("own", "a")
    assert b.objection(offer("1", "a", answered="own")) is not None
    assert b.objection(offer("1", "a", answered="an older one")) is None
    b.end()
    assert b.objection(offer("1", "a", answered="own")) is None


def test_an_offer_names_the_partners_offer_that_was_answered_last() -> None:
    a = Crossing("a")
    assert a.answered_of("b") == ""
    a.accept(offer("1", "b"))
    a.accept(offer("2", "c"))
    a.accept(offer("3", "b"))
    assert (a.answered_of("b"), a.answered_of("c")) == ("3", "2")


def test_a_withdrawn_offer_is_refused_should_it_come_later() -> None:
    a = Crossing("a")
    a.begin("own", "b")
    a.note(Message("own", "b", "job", "layout", withdraws="7"))
    a.end()
    assert a.objection(offer("7", "b")) == "b has withdrawn this offer"
    assert a.objection(offer("8", "b")) is None


def test_only_so_much_is_remembered() -> None:
    a = Crossing("a")
    for number in range(REMEMBERED + 10):
        a.accept(offer(str(number), f"peer {number}"))
        a.note(Message("", "b", "job", "layout", withdraws=str(number)))
    assert a.answered_of("peer 0") == ""
    assert a.answered_of(f"peer {REMEMBERED + 9}") == str(REMEMBERED + 9)
    assert a.objection(offer("0", "b")) is None
    assert a.objection(offer(str(REMEMBERED + 9), "b")) is not None
