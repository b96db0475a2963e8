"""How long an exchange may take, and what its distance says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.gossip.policy.deadline import REMEMBERED, SHORTEST_S, Deadline, Deadlines, first_deadline_s
from gossip_caffe.gossip.policy.health import GossipHealth, health, running_mean


def test_the_first_deadline_allows_for_the_size_of_the_weights() -> None:
    assert Deadline(0).seconds == 5.0
    assert Deadline(200_000_000).seconds == first_deadline_s(200_000_000) == 25.0


def test_a_fast_network_gets_a_short_deadline_but_never_too_short_a_one() -> None:
    deadline = Deadline(1_000_000)
    deadline.answered(0.01)
    assert deadline.seconds == SHORTEST_S
    deadline.answered(10.0)
    assert 4 * 0.01 < deadline.seconds < 4 * 10.0


def test_a_far_partner_is_waited_for_as_long_as_it_takes_although_near_ones_answer_at_once() -> None:
    deadlines, far_takes_s, answered = Deadlines(1_000_000), 5.5, 0
    for _ in range(30):
        for _ in range(4):
            deadlines.of("near").answered(0.25)
        if deadlines.of("far").seconds > far_takes_s:
            deadlines.of("far").answered(far_takes_s)
            answered += 1
        else:
            deadlines.of("far").passed()
    assert deadlines.of("near").seconds == SHORTEST_S
    assert answered >= 29


def test_deadlines_of_many_partners_take_bounded_memory() -> None:
    deadlines = Deadlines(0)
    deadlines.of("first").answered(0.1)
    for partner in range(REMEMBERED):
        deadlines.of(f"p{partner}")
    assert deadlines.of("first").seconds == Deadline(0).seconds


def test_a_network_that_became_slower_is_found_out() -> None:
    deadline = Deadline(1_000_000)
    deadline.answered(0.01)
    takes_s = 9.0
    passed = 0
    while deadline.seconds < takes_s:
        deadline.passed()
        passed += 1
    assert passed == 3
    for _ in range(20):
        deadline.answered(takes_s)
        assert deadline.seconds > 2.0
    assert deadline.seconds > takes_s


@given(st.integers(0, 10**10), st.lists(st.one_of(st.none(), st.floats(0, 1e4)), max_size=50))
def test_a_deadline_stays_within_its_bounds(both_ways_bytes: int, trips: list[float | None]) -> None:
    deadline = Deadline(both_ways_bytes)
    for took_s in trips:
        if took_s is None:
            deadline.passed()
        else:
            deadline.answered(took_s)
        assert SHORTEST_S <= deadline.seconds <= 60 + both_ways_bytes / 1e6


@pytest.mark.parametrize(
    ("distance", "says"),
    [
        (None, GossipHealth.WELL),
        (1e-3, GossipHealth.WELL),
        (1.1e-3, GossipHealth.APART),
        (1e-2, GossipHealth.APART),
        (1.1e-2, GossipHealth.DRIFTING),
    ],
)
def test_the_running_distance_says_how_well_the_peers_agree(
    distance: float | None, says: GossipHealth
) -> None:
    assert health(distance) is says


def test_the_first_distance_is_the_mean_and_later_ones_move_it() -> None:
    assert running_mean(None, 0.5) == 0.5
    assert running_mean(0.5, 0.0) == pytest.approx(0.45)
