"""Halves that are too long are cut, and offers that come too often are refused, where names are certain."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.gossip.codecs.message import Refusal
from gossip_caffe.gossip.policy.clip import FEWEST_HALVES, LAST, Clip
from gossip_caffe.gossip.policy.offer_rate import ALWAYS, FACTOR, WINDOW_S, OfferRates, most_offers
from gossip_caffe.gossip.protocol.outcome import OutcomeKind
from tests.exchange_net import Net


def filled(clip: Clip, lengths: dict[str, float], count: int = FEWEST_HALVES) -> Clip:
    for partner, length in lengths.items():
        for _ in range(count):
            clip.note(partner, length, 0.0, 1.0)
    return clip


def test_nothing_is_cut_before_three_partners_are_known_and_nothing_at_all_by_zero() -> None:
    assert filled(Clip(4.0), {"a": 1.0, "b": 1.0}).share(1e9) == 1.0
    assert filled(Clip(0.0), {"a": 1.0, "b": 1.0, "c": 1.0}).share(1e9) == 1.0
    assert filled(Clip(4.0), {"a": 1.0, "b": 1.0, "c": 1.0}, FEWEST_HALVES - 1).share(1e9) == 1.0


@given(st.lists(st.floats(0.01, 10.0), min_size=3, max_size=9), st.floats(0.01, 1e6))
def test_no_half_is_longer_than_four_usual_ones_and_no_usual_one_is_cut(
    lengths: list[float], norm: float
) -> None:
    clip = filled(Clip(4.0), {f"p{number}": length for number, length in enumerate(lengths)})
    usual = statistics.median(lengths)
    share = clip.share(norm)
    assert 0.0 < share <= 1.0
    assert share * norm <= max(4.0 * usual * (1 + 1e-9), 0.0) or share == 1.0
    if norm <= 4.0 * usual:
        assert share == 1.0
    else:
        assert share * norm == pytest.approx(4.0 * usual)


def test_a_partner_moves_its_own_median_and_not_the_usual_length() -> None:
    clip = filled(Clip(4.0), {"a": 1.0, "b": 1.1, "c": 0.9})
    for _ in range(10 * LAST):
        share = clip.share(50.0)
        clip.note("hostile", 50.0, 100.0, share)
    assert clip.usual == pytest.approx(1.05, abs=0.06)
    assert clip.share(50.0) == pytest.approx(4.0 * clip.usual / 50.0)
    assert clip.cuts > 100
    assert clip.mass_error < 0
    clip.forget({"a"})
    assert clip.usual == 0.0


async def test_a_cut_half_is_applied_in_part_and_counted_as_shift_of_the_sum() -> None:
    net = Net(2)
    for name in ("p0", "p1"):
        net.peers[name].local.clip = filled(Clip(4.0), {"a": 0.01, "b": 0.01, "c": 0.01})
    before = {name: peer.values.astype(np.float64).copy() for name, peer in net.weights.items()}
    outcome = await net.peers["p0"].offering.offer_to("p1", "p1")
    assert outcome.kind is OutcomeKind.APPLIED
    assert outcome.share < 1.0
    for name in ("p0", "p1"):
        moved = net.weights[name].values - before[name]
        assert np.linalg.norm(moved) == pytest.approx(0.04, rel=1e-3)
    shift = sum(float((net.weights[name].values - before[name]).sum()) for name in before)
    counted = sum(net.peers[name].local.clip.mass_error for name in before)
    # Each side cut its own half, so each counts what its half lacks; the two lacks cancel.
    assert shift == pytest.approx(counted, abs=1e-5)


def test_the_limit_of_offers_is_four_times_the_usual() -> None:
    assert most_offers(5, [1, 2]) == float("inf")
    assert most_offers(0, [2, 2, 2]) == ALWAYS + FACTOR * 2
    assert most_offers(9, [2, 2, 2]) == ALWAYS + FACTOR * 9


def test_a_partner_that_offers_far_more_often_than_others_is_refused_until_it_pauses() -> None:
    rates, now, rng = OfferRates(), 0.0, random.Random(1)
    refused = dict.fromkeys(("a", "b", "c", "hostile"), 0)
    while now < 4 * WINDOW_S:
        now += 0.1
        names = ["hostile"] * 5 + [name for name in ("a", "b", "c") if rng.random() < 0.1]
        for name in names:
            refused[name] += bool(rates.objection(name, now))
    assert refused["a"] == refused["b"] == refused["c"] == 0
    taken = 5 * now * 10 - refused["hostile"]
    assert taken / (now / WINDOW_S) < ALWAYS + FACTOR * 45
    assert not rates.objection("hostile", now + WINDOW_S + 1)
    rates.forget(set())
    assert not rates.objection("hostile", now)


async def test_an_offer_too_many_is_overloaded_and_changes_nothing() -> None:
    net = Net(2)
    local = net.peers["p1"].local
    local.rates = OfferRates()
    now = local.clock.monotonic()
    for name in ("a", "b", "c"):
        assert not local.rates.objection(name, now)
    kinds = [(await net.peers["p0"].offering.offer_to("p1", "p1")) for _ in range(20)]
    refused = [outcome for outcome in kinds if outcome.refusal is Refusal.OVERLOADED]
    assert refused
    assert "the limit is" in refused[0].reason
    assert kinds[0].kind is OutcomeKind.APPLIED
