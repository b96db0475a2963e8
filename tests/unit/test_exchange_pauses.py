"""How long a peer waits after an offer: one that waits to settle asks again soon, but not over and over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.gossip.protocol.outcome import OutcomeKind
from gossip_caffe.peer.sharing.pairwise import (
    FIRST_PAUSE_S,
    IDLE_PAUSE_S,
    LONGEST_LOOK_S,
    LONGEST_PAUSE_S,
    SHORTEST_LOOK_S,
    pause_after,
    until_due_s,
)

IN_VAIN = [kind for kind in OutcomeKind if kind is not OutcomeKind.APPLIED]


def test_after_an_exchange_that_was_applied_the_next_may_come_when_it_is_due() -> None:
    assert pause_after(OutcomeKind.APPLIED, in_vain=0, urgent=False, draw=0.5).seconds == 0.0


def test_a_peer_without_partners_looks_again_after_a_while() -> None:
    for urgent in (False, True):
        pause = pause_after(None, in_vain=7, urgent=urgent, draw=0.5)
        assert pause.seconds == IDLE_PAUSE_S
        assert "no partner" in pause.reason


@pytest.mark.parametrize("kind", IN_VAIN)
def test_a_scheduled_exchange_that_came_to_nothing_is_not_made_up_for_at_once(kind: OutcomeKind) -> None:
    assert pause_after(kind, in_vain=20, urgent=False, draw=0.9).seconds == IDLE_PAUSE_S


@pytest.mark.parametrize("kind", IN_VAIN)
def test_each_urgent_offer_in_vain_doubles_the_pause_up_to_a_limit(kind: OutcomeKind) -> None:
    pauses = [pause_after(kind, in_vain=count, urgent=True, draw=1.0).seconds for count in range(1, 40)]
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S


@given(st.sampled_from(IN_VAIN), st.integers(1, 10_000), st.floats(0, 1))
def test_two_urgent_peers_that_cross_do_not_stay_in_step(
    kind: OutcomeKind, in_vain: int, draw: float
) -> None:
    pause = pause_after(kind, in_vain=in_vain, urgent=True, draw=draw)
    longest = pause_after(kind, in_vain=in_vain, urgent=True, draw=1.0).seconds
    assert longest / 2 <= pause.seconds <= longest
    assert str(in_vain) in pause.reason


def test_ten_seconds_of_refusals_are_less_than_thirty_offers() -> None:
    passed, offers = 0.0, 0
    while passed < 10:
        offers += 1
        passed += pause_after(OutcomeKind.REFUSED, in_vain=offers, urgent=True, draw=0.5).seconds
    assert offers < 30


@given(st.integers(-5, 10**6), st.floats(0, 100))
def test_the_next_look_for_an_exchange_is_soon_but_not_at_once(left: int, step_s: float) -> None:
    assert SHORTEST_LOOK_S <= until_due_s(left, step_s) <= LONGEST_LOOK_S
