"""Who leads rounds and who is in the next one; who is left out of a round, and who cannot be reached."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.gossip.codecs.message import Refusal
from gossip_caffe.gossip.rounds.forming import (
    Situation,
    Standing,
    contributes,
    formation,
    leader_of,
    unreachable,
)
from gossip_caffe.gossip.rounds.judging import judged, limit_for
from gossip_caffe.gossip.rounds.words import Figure, Word, WordKind

READY = Word(WordKind.READY, started=True)
STEPPED = replace(READY, stepped=True)
NAMES = st.sets(st.sampled_from("abcdefgh"), min_size=1)


def standing(ready: Word | None, *, in_view: bool = True) -> Standing:
    return Standing(ready, in_view)


def now(**of: Word | None) -> Situation:
    return Situation({peer: standing(ready) for peer, ready in of.items()})


# ── the leader ────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(NAMES)
def test_all_peers_with_the_same_view_have_the_same_leader(names: set[str]) -> None:
    leaders = {leader_of(own, trains=True, partners=names - {own}, avoided=()).leader for own in names}
    assert leaders == {min(names)}


def test_a_peer_that_cannot_attend_the_leader_takes_the_next_name_and_says_why() -> None:
    choice = leader_of("b", trains=True, partners=["a", "c"], avoided=["a"])
    assert choice.leader == "b"
    assert choice.reason == "the lowest name of 2"
    assert leader_of("b", trains=False, partners=["a", "c"], avoided=["a"]).leader == "c"
    assert leader_of("b", trains=False, partners=["a"], avoided=["a"]).leader == ""


# ── the members ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_round_waits_for_all_who_train_and_names_those_it_waits_for() -> None:
    assert formation(now(a=STEPPED, b=None)).reason == "it waits for b"
    assert formation(replace(now(a=STEPPED, b=STEPPED), awaited=("c",))).reason == "it waits for c"
    assert formation(now(a=STEPPED, b=STEPPED)).members == ("a", "b")


def test_a_peer_that_has_vanished_from_the_view_is_not_waited_for() -> None:
    situation = Situation(
        {"a": standing(STEPPED), "b": standing(STEPPED), "c": standing(None, in_view=False)}
    )
    assert formation(situation).members == ("a", "b")


def test_a_straggler_is_left_out_after_the_patience_and_not_before() -> None:
    situation = replace(now(a=STEPPED, b=STEPPED, c=None), patience_s=2.0)
    assert formation(replace(situation, waited_s=1.9)).members == ()
    late = formation(replace(situation, waited_s=2.0))
    assert late.members == ("a", "b")
    assert "without c" in late.reason


def test_no_round_begins_while_no_peer_has_anything_new_but_the_waiting_hear_what_is_durable() -> None:
    idle = replace(READY, last="r1")
    assert formation(now(a=idle, b=idle)) == replace(
        formation(now(a=idle, b=idle)), members=(), confirms=False
    )
    assert formation(now(a=idle, b=replace(idle, wants=True))).confirms


def test_a_member_that_missed_a_round_makes_the_next_one_begin() -> None:
    found = formation(
        now(a=replace(READY, last="r2"), b=replace(READY, last="r2"), c=replace(READY, last="r1"))
    )
    assert found.members == ("a", "b", "c")
    assert found.base == "r2"
    assert not found.everyone


def test_the_first_step_waits_for_as_many_peers_as_the_setting_says() -> None:
    fresh = replace(READY, started=False)
    assert formation(replace(now(a=fresh, b=fresh), start_peers=3)).members == ()
    found = formation(replace(now(a=fresh, b=fresh, c=fresh), start_peers=3))
    assert found.members == ("a", "b", "c")
    assert found.started
    assert found.everyone


def test_a_guest_gets_the_mean_before_the_first_step_too() -> None:
    fresh, guest = replace(READY, started=False), replace(READY, started=False, guest=True)
    found = formation(replace(now(a=fresh, b=guest), start_peers=3))
    assert found.members == ("a", "b")
    assert not found.started


def test_guests_alone_make_no_round() -> None:
    guest = replace(READY, guest=True)
    assert formation(now(a=guest, b=guest)).members == ()


WORDS = st.builds(
    Word,
    st.just(WordKind.READY),
    last=st.sampled_from(["", "r1", "r2"]),
    stepped=st.booleans(),
    wants=st.booleans(),
    guest=st.booleans(),
    started=st.booleans(),
)
SITUATIONS = st.builds(
    Situation,
    st.dictionaries(st.sampled_from("abcdef"), st.builds(Standing, st.none() | WORDS, st.booleans())),
    awaited=st.sets(st.sampled_from("abcdefgh")).map(tuple),
    avoided=st.sets(st.sampled_from("abcdef")).map(tuple),
    waited_s=st.floats(0, 10),
    patience_s=st.sampled_from([0.0, 1.0]),
    start_peers=st.integers(0, 4),
)


@given(SITUATIONS)
def test_every_member_is_ready_and_someone_of_the_job_counts_in_the_mean(situation: Situation) -> None:
    found = formation(situation)
    assert found.reason
    assert found == formation(situation)
    assert list(found.members) == sorted(set(found.members))
    if not found.members:
        return
    ready = {peer: situation.standings[peer].ready for peer in found.members}
    assert all(word is not None for word in ready.values())
    assert not set(found.members) & set(situation.avoided)
    assert len(found.members) > 1
    assert any(
        contributes(
            guest=word.guest, stepped=word.stepped, last=word.last, base=found.base, everyone=found.everyone
        )
        for word in ready.values()
        if word is not None
    )


# ── members that cannot be reached ────────────────────────────────────────────────────────────────────────────────────


def test_of_two_that_cannot_reach_each_other_the_higher_name_is_left_out() -> None:
    assert unreachable({"a": ["b"], "b": ["a"]}) == ("b",)


def test_a_member_that_most_others_cannot_reach_is_left_out_alone() -> None:
    assert unreachable({"b": ["a"], "c": ["a"], "a": ["b", "c"]}) == ("a",)


@given(st.dictionaries(st.sampled_from("abcde"), st.sets(st.sampled_from("abcde"))))
def test_those_who_are_left_can_all_reach_each_other(reports: dict[str, set[str]]) -> None:
    out = unreachable(reports)
    for peer, others in reports.items():
        for other in others - {peer}:
            assert peer in out or other in out


# ── the judgement ─────────────────────────────────────────────────────────────────────────────────────────────────────


def scattered(apart: dict[str, float], square: float = 1.0, wild: tuple[str, ...] = ()) -> Word:
    figures = tuple(Figure(peer, peer not in wild, value) for peer, value in apart.items())
    return Word(WordKind.SCATTERED, figures=figures, square=square)


def test_contributions_near_the_mean_are_all_taken() -> None:
    assert judged([scattered({"a": 1e-4, "b": 1e-4}), scattered({"a": 1e-4, "b": 1e-4})], 0.25) == ()


def test_of_many_only_the_farthest_is_left_out() -> None:
    (found,) = judged([scattered({"a": 0.3, "b": 0.3, "c": 2.0, "d": 0.3}, square=1.0)], 0.25)
    assert (found.peer, found.refusal) == ("c", Refusal.TOO_FAR)


def test_of_two_it_cannot_be_told_which_is_wrong() -> None:
    assert [found.peer for found in judged([scattered({"a": 1.0, "b": 1.0})], 0.25)] == ["a", "b"]


def test_nan_is_named_before_any_distance() -> None:
    (found,) = judged([scattered({"a": 9.0, "b": 0.0, "c": 0.0}, wild=("b",))], 0.25)
    assert (found.peer, found.refusal) == ("b", Refusal.NON_FINITE)


def test_without_a_limit_no_distance_is_too_far() -> None:
    assert judged([scattered({"a": 9.0, "b": 9.0, "c": 9.0})], 0.0) == ()


@pytest.mark.parametrize(("contributors", "limit"), [(2, 0.25), (4, 0.375), (1000, 0.4995)])
def test_the_limit_of_two_is_that_of_an_exchange(contributors: int, limit: float) -> None:
    assert math.isclose(limit_for(0.25, contributors), limit)
