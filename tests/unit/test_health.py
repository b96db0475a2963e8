"""When the others' word stands against a peer's own weights."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.peer.sharing.health import REFUSALS, TWICE_WITHIN_S, WITNESSES, Half, OwnHealth


def refused_by(*partners: str) -> OwnHealth:
    health = OwnHealth()
    for partner in partners:
        health.refused(partner)
    return health


def test_three_partners_that_agree_again_and_again_are_believed() -> None:
    assert refused_by(*"abcabc").is_far(partners=9)
    assert refused_by(*"abcabc").refusers == ("a", "b", "c")
    assert not refused_by(*"abcab").is_far(partners=9)


def test_one_or_two_that_always_refuse_are_not() -> None:
    assert not refused_by(*20 * "a").is_far(partners=9)
    assert not refused_by(*20 * "ab").is_far(partners=9)


def test_two_partners_that_refuse_are_enough_and_one_is_not() -> None:
    assert refused_by(*"ababab").is_far(partners=2)
    assert not refused_by(*"aaaaaa").is_far(partners=2)
    assert not refused_by(*"aaaaaa").is_far(partners=1)


def test_a_peer_whose_halves_are_applied_is_not_far() -> None:
    health = refused_by(*"abcab")
    health.half_added(Half("d", "d-1"))
    health.refused("c")
    assert not health.is_far(partners=9)
    assert health.last == Half("d", "d-1")


@given(st.lists(st.sampled_from("abcdef-"), max_size=60), st.integers(0, 9))
def test_a_peer_is_far_only_after_enough_refusals_in_a_row_of_enough_partners(
    turns: list[str], partners: int
) -> None:
    health, row = OwnHealth(), list[str]()
    for turn in turns:
        if turn == "-":
            health.half_added(Half("x", "x-1"))
            row.clear()
        else:
            health.refused(turn)
            row.append(turn)
    witnesses = len(set(row[-REFUSALS:]))
    expected = partners > 1 and len(row) >= REFUSALS and witnesses >= min(WITNESSES, partners)
    assert health.is_far(partners) == expected


def test_a_peer_goes_back_once_in_ten_minutes() -> None:
    health = OwnHealth()
    assert health.goes_back(0.0)
    assert not health.goes_back(TWICE_WITHIN_S - 1)
    health = OwnHealth()
    assert health.goes_back(0.0)
    assert health.goes_back(TWICE_WITHIN_S)
