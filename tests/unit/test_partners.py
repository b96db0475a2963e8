"""With whom to exchange, and when."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.gossip.policy.partners import (
    LONGEST_BACK_OFF_S,
    NEAR_SHARE,
    PARTNER_POLICIES,
    AvoidedPartners,
    Standpoint,
    choose,
    exponential,
    next_exchange,
    ring,
    uniform,
)


def test_partners_are_drawn_uniformly() -> None:
    rng = random.Random(1)
    drawn = Counter(choose(["a", "b", "c", "d"], AvoidedPartners(), 0.0, rng).partner for _ in range(4000))
    assert set(drawn) == {"a", "b", "c", "d"}
    assert all(900 < count < 1100 for count in drawn.values())


def test_without_candidates_there_is_a_reason() -> None:
    assert choose([], AvoidedPartners(), 0.0, random.Random(1)).reason == "no other peer is training"


def test_a_partner_that_failed_is_avoided_twice_as_long_each_time_but_never_for_ever() -> None:
    suspects = AvoidedPartners()
    now = 0.0
    waits = []
    for _ in range(12):
        suspects.failed("a", now)
        waits.append(suspects.until["a"] - now)
        assert choose(["a"], suspects, now, random.Random(1)).partner is None
        now = suspects.until["a"]
        assert choose(["a"], suspects, now, random.Random(1)).partner == "a"
    assert waits[:3] == [1.0, 2.0, 4.0]
    assert max(waits) == LONGEST_BACK_OFF_S


def test_success_clears_suspicion() -> None:
    suspects = AvoidedPartners()
    suspects.failed("a", 0.0)
    suspects.succeeded("a")
    assert choose(["a"], suspects, 0.0, random.Random(1)).partner == "a"


@given(st.integers(0, 10**6), st.integers(1, 64), st.floats(0, 0.9), st.integers(0, 1000))
def test_the_next_exchange_is_about_every_h_iterations(
    now: int, every: int, jitter: float, seed: int
) -> None:
    due = next_exchange(now, every, jitter, random.Random(seed))
    assert due - now >= 1
    assert every * (1 - jitter) - 0.5 <= due - now <= max(1, every * (1 + jitter) + 0.5)


NAMES = [f"p{number}" for number in range(9)]


def others(peer: str, count: int = 9) -> dict[str, str]:
    return {name: "" for name in NAMES[:count] if name != peer}


@pytest.mark.parametrize("strategy", PARTNER_POLICIES.values())
@given(
    count=st.integers(1, 9),
    turn=st.integers(0, 50),
    failed=st.sets(st.sampled_from(NAMES)),
    seed=st.integers(),
)
def test_every_strategy_finds_a_partner_that_is_well_whenever_there_may_be_one(
    strategy: object, count: int, turn: int, failed: set[str], seed: int
) -> None:
    suspects = AvoidedPartners()
    for peer in failed:
        suspects.failed(peer, 0.0)
    candidates = others("p0", count)
    choose_one = next(one for one in PARTNER_POLICIES.values() if one is strategy)
    choice = choose_one(Standpoint("p0", "", turn), candidates, suspects, 0.5, random.Random(seed))
    assert choice.reason
    if choice.partner is None:
        assert candidates.keys() <= failed
    else:
        assert choice.partner in candidates.keys() - failed
    # Nobody is avoided for ever.
    later = choose_one(Standpoint("p0", "", turn), candidates, suspects, 1e3, random.Random(seed))
    assert (later.partner is None) == (not candidates)


def test_in_a_ring_the_neighbours_are_asked_by_turns() -> None:
    asked = [
        ring(Standpoint("p3", turn=turn), others("p3"), AvoidedPartners(), 0.0, random.Random(1)).partner
        for turn in range(4)
    ]
    assert asked == ["p4", "p2", "p4", "p2"]
    last = ring(Standpoint("p8"), others("p8"), AvoidedPartners(), 0.0, random.Random(1))
    assert (last.partner, last.reason) == ("p0", "number 1 after it")


def test_a_ring_closes_over_a_neighbour_that_failed() -> None:
    suspects = AvoidedPartners()
    suspects.failed("p4", 0.0)
    assert ring(Standpoint("p3"), others("p3"), suspects, 0.5, random.Random(1)).partner == "p5"


def test_exponential_hops_reach_partners_in_powers_of_two_by_turns() -> None:
    asked = [
        exponential(
            Standpoint("p7", turn=turn), others("p7"), AvoidedPartners(), 0.0, random.Random(1)
        ).partner
        for turn in range(5)
    ]
    assert asked == ["p8", "p0", "p2", "p6", "p8"]


def test_exponential_partners_mix_nine_peers_in_a_few_rounds_and_a_ring_takes_longer() -> None:
    def spread_after(strategy: object, rounds: int) -> float:
        choose_one = next(one for one in PARTNER_POLICIES.values() if one is strategy)
        rng = random.Random(1)
        weights = {name: float(index) for index, name in enumerate(NAMES)}
        for turn in range(rounds):
            for name in rng.sample(NAMES, len(NAMES)):
                partner = choose_one(
                    Standpoint(name, turn=turn), others(name), AvoidedPartners(), 0.0, rng
                ).partner
                assert partner is not None
                weights[name] = weights[partner] = (weights[name] + weights[partner]) / 2
        mean = sum(weights.values()) / len(weights)
        return math.fsum((weight - mean) ** 2 for weight in weights.values())

    assert spread_after(exponential, 4) < 0.2 < 60
    assert spread_after(exponential, 4) < spread_after(ring, 4) < 60


def test_with_zones_four_of_five_partners_are_near_and_each_zone_member_is_as_likely() -> None:
    zones = {"a": "here", "b": "here", "c": "there", "d": "there", "e": ""}
    rng = random.Random(1)
    choices = [uniform(Standpoint("x", "here"), zones, AvoidedPartners(), 0.0, rng) for _ in range(10_000)]
    drawn = Counter(choice.partner for choice in choices)
    assert drawn["a"] + drawn["b"] == pytest.approx(10_000 * NEAR_SHARE, abs=200)
    assert drawn["a"] == pytest.approx(drawn["b"], abs=300)
    assert drawn["c"] == pytest.approx(drawn["e"], abs=200)
    assert {choice.reason for choice in choices} == {"one of 2 in zone here", "one of 3 outside zone here"}


def test_zones_that_tell_nothing_apart_change_nothing() -> None:
    rng = random.Random(1)
    for own, zones in (
        ("here", {"a": "here", "b": "here"}),
        ("", {"a": "here", "b": ""}),
        ("x", {"a": "", "b": "y"}),
    ):
        drawn = Counter(
            uniform(Standpoint("p", own), zones, AvoidedPartners(), 0.0, rng).partner for _ in range(2000)
        )
        assert drawn["a"] == pytest.approx(1000, abs=150)


def test_while_everybody_near_failed_a_far_partner_is_asked() -> None:
    suspects = AvoidedPartners()
    suspects.failed("a", 0.0)
    choices = {
        uniform(
            Standpoint("x", "here"), {"a": "here", "b": "there"}, suspects, 0.5, random.Random(seed)
        ).partner
        for seed in range(20)
    }
    assert choices == {"b"}
