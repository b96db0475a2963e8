"""How often to exchange."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.errors import UsageError
from gossip_caffe.gossip.codecs.codec import CODECS
from gossip_caffe.gossip.policy.cadence import (
    EARLY,
    EARLY_TIMES,
    EXCHANGES,
    FASTER,
    FLOAT32_BYTES,
    LONGEST,
    SHORTEST,
    SHORTEST_START,
    SLOWER,
    Cadence,
    Outlook,
    affordable,
    begun,
    early,
    steered,
)
from gossip_caffe.gossip.policy.health import running_mean
from gossip_caffe.job.spec.settings import JobSettings, with_overrides
from gossip_caffe.peer.sharing.own_cadence import OwnCadence

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


@given(st.floats(1, 1e7), st.floats(1, 1e7), st.integers(1, 1000))
def test_a_job_begins_with_the_interval_that_gives_enough_exchanges(
    iterations: float, other: float, longest: int
) -> None:
    found = begun(iterations, longest)
    assert min(SHORTEST_START, longest) <= found.every <= longest
    assert iterations / found.every >= EXCHANGES * 0.999 or found.every == min(SHORTEST_START, longest)
    if other > iterations:
        assert begun(other, longest).every >= found.every
    assert "are wanted" in found.reason


def test_the_intervals_of_known_jobs() -> None:
    assert begun(176, 8).every == 2  # LeNet, 3 epochs, 16 peers
    assert begun(351, 8).every == pytest.approx(2.7)  # the same, 8 peers
    assert begun(100_000, 8).every == 8


@given(st.floats(1, LONGEST), st.floats(0, 1))
def test_exchanges_are_more_frequent_in_the_first_tenth_only(every: float, share: float) -> None:
    cadence = Cadence(every, "")
    found = early(cadence, share)
    if share >= EARLY:
        assert found == cadence
    else:
        assert min(every, SHORTEST_START) <= found.every <= every
        assert every / found.every <= EARLY_TIMES


@given(
    every=st.floats(1, LONGEST),
    budget=st.floats(1e-4, 1),
    living=st.integers(2, 1000),
    codec=st.sampled_from(sorted(CODECS)),
)
def test_a_budget_of_bytes_is_kept_with_every_codec(
    every: float, budget: float, living: int, codec: str
) -> None:
    values = 431_080
    value_bytes = CODECS[codec].payload_bytes(values) / values
    found = affordable(Cadence(every, ""), budget, living, value_bytes)
    assert found.every >= every
    all_reduce = (
        2 * (living - 1) / living * FLOAT32_BYTES
    )  # bytes that a peer sends for each value and iteration
    exchanged = 2 * value_bytes / found.every
    assert exchanged <= budget * all_reduce * (1 + 1e-9)
    if found.every > every:
        assert exchanged == pytest.approx(budget * all_reduce)
        assert "budget" in found.reason


def test_without_a_budget_or_a_partner_nothing_is_spared() -> None:
    cadence = Cadence(4, "")
    assert affordable(cadence, 0.0, 8, 4.0) is cadence
    assert affordable(cadence, 0.001, 1, 4.0) is cadence


def test_a_founder_that_began_alone_takes_the_interval_of_the_peers_that_came() -> None:
    seen = [Outlook(2000, 0.5, 1)]
    cadence = OwnCadence(JobSettings(), lambda: seen[-1])
    assert cadence.now.every == 8
    seen.append(Outlook(250, 0.5, 8))
    assert cadence.now.every == SHORTEST_START
    cadence.steer(1e-2)
    assert cadence.now.every == SHORTEST_START
    cadence.steer(1e-9)
    assert cadence.now.every == pytest.approx(SHORTEST_START * SLOWER)


def test_a_fixed_cadence_stays_but_for_the_budget() -> None:
    seen = Outlook(250, 0.0, 8)
    settings = JobSettings(cadence="fixed")
    cadence = OwnCadence(settings, lambda: seen)
    cadence.steer(1.0)
    assert cadence.now.every == 8
    thrifty = with_overrides(settings, {"bytes_budget": "1/100", "codec": "float32"})
    assert OwnCadence(thrifty, lambda: seen).now.every == pytest.approx(100 * 8 / 7)


@pytest.mark.parametrize("text", ["2", "-1", "1/0", "much", "nan", "1/100/2"])
def test_a_budget_that_is_no_ratio_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="a fraction like 1/100"):
        with_overrides(JobSettings(), {"bytes_budget": text})
