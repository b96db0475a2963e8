"""How often to exchange."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.gossip.policy.cadence import FASTER, LONGEST, SHORTEST, SLOWER, Cadence, steered
from gossip_caffe.gossip.policy.health import running_mean

EVERIES = st.floats(SHORTEST, LONGEST)
DISTANCES = st.floats(1e-12, 10.0)


def after(every: float, distance: float | None, held: float = 1e-3) -> float:
    return steered(Cadence(every, ""), distance, held).every


def test_before_the_first_exchange_the_cadence_is_the_jobs_own() -> None:
    assert after(8, None) == 8


def test_peers_that_are_as_far_apart_as_they_may_be_keep_their_cadence() -> None:
    assert after(8, 1e-3) == 8


def test_peers_that_drift_apart_exchange_more_often_and_those_that_are_near_more_seldom() -> None:
    assert after(8, 2e-3) < 8 < after(8, 5e-4)
    assert after(8, 0.0) == 8 * SLOWER
    assert after(8, math.inf) == 8 * FASTER


def test_the_reason_names_both_distances() -> None:
    assert steered(Cadence(8, ""), 4e-3, 1e-3).reason == "the distance is 0.004, and 0.001 is held"


@given(EVERIES, DISTANCES, DISTANCES)
def test_a_step_is_bounded_and_within_the_range(every: float, distance: float, held: float) -> None:
    found = after(every, distance, held)
    assert SHORTEST <= found <= LONGEST
    assert every * FASTER <= found * (1 + 1e-12) or found == SHORTEST
    assert found <= every * SLOWER * (1 + 1e-12)


@given(EVERIES, DISTANCES, st.floats(1.0, 100.0), DISTANCES)
def test_the_further_apart_the_more_often(every: float, distance: float, times: float, held: float) -> None:
    assert after(every, times * distance, held) <= after(every, distance, held)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@given(
    start=EVERIES,
    seed=st.integers(0, 10**6),
    wanted=st.floats(1.5 * SHORTEST, 40.0),
)
def test_it_settles_where_the_distance_is_held_however_the_distance_follows_it(
    power: float, start: float, seed: int, wanted: float
) -> None:
    # The distance of peers that exchange every h iterations goes with a power of h, and each exchange finds it with
    # an error; ``wanted`` is where it is the one to be held.
    rng = random.Random(seed)
    cadence, mean, seen = Cadence(start, ""), None, []
    for step in range(400):
        for _ in range(2):  # a peer answers about as often as it offers
            mean = running_mean(mean, 1e-3 * (cadence.every / wanted) ** power * rng.uniform(0.5, 1.5))
        cadence = steered(cadence, mean, 1e-3)
        if step >= 100:
            seen.append(cadence.every)
    assert sum(seen) / len(seen) == pytest.approx(wanted, rel=0.15)
    assert max(seen) < 2 * wanted
    assert min(seen) > wanted / 2


def test_when_the_rate_falls_fewer_bytes_are_spent() -> None:
    cadence, mean, every = Cadence(8, ""), None, []
    for step in range(300):
        mean = running_mean(mean, 1e-4 * cadence.every * (1.0 if step < 150 else 0.1))
        cadence = steered(cadence, mean, 1e-3)
        every.append(cadence.every)
    assert every[149] == pytest.approx(10, rel=0.1)
    assert every[-1] == LONGEST
