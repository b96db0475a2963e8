"""Distances and bounds under every codec: the noise of its rounding is no distance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gossip_caffe.gossip.averaging.average import HalfStats, halve
from gossip_caffe.gossip.averaging.bound import reach
from gossip_caffe.gossip.codecs.codec import CODECS
from gossip_caffe.gossip.policy.cadence import Cadence, steered
from gossip_caffe.gossip.policy.health import GossipHealth, health, running_mean
from gossip_caffe.gossip.protocol.payload import encoded, halved
from gossip_caffe.gossip.protocol.swap import IncomingWeights, OutgoingWeights

Flat = NDArray[np.float32]
SIZE = 60_000
BLOBS = (50_000, 9_000, 1_000)
HALF_LIMIT = 0.25
NARROW = sorted(set(CODECS) - {"float32"})


def weights(seed: int, size: int = SIZE) -> Flat:
    """Weights as of a trained net: layers of different scales, and some values far from the others."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(size) * np.where(np.arange(size) % 5000 < 2500, 0.02, 0.2)
    values[rng.integers(0, size, size // 200)] *= 4
    return values.astype(np.float32)


def apart(own: Flat, distance: float, seed: int) -> Flat:
    """Other weights at this consensus distance from ``own``."""
    way = np.random.default_rng(seed).standard_normal(own.size)
    return (own + way * (2 * math.sqrt(distance) * np.linalg.norm(own) / np.linalg.norm(way))).astype(
        np.float32
    )


def half_of(codec: str, own: Flat, other: Flat, seed: int, blobs: tuple[int, ...] = BLOBS) -> HalfStats:
    """The figures of the half that ``own`` takes when both sides are sent by the codec."""
    rng = np.random.default_rng(seed)
    received = np.empty_like(other)
    CODECS[codec].decode(CODECS[codec].encode(other, blobs, rng), received)
    mine = own.copy()
    sent = encoded(codec, mine, blobs, rng)
    assert sent is not None
    return halved(sent, received, mine)


@pytest.mark.parametrize("name", sorted(CODECS))
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 3000))
def test_settled_values_are_the_decoded_ones_and_the_noise_is_their_way_from_the_own(
    name: str, seed: int, size: int
) -> None:
    own = weights(seed, size)
    payload = CODECS[name].encode(own, (), np.random.default_rng(seed))
    wanted, settled = np.empty_like(own), own.copy()
    CODECS[name].decode(payload, wanted)
    noise = CODECS[name].settle(payload, settled)
    assert np.array_equal(settled, wanted)
    expected = float(np.sum((wanted.astype(np.float64) - own) ** 2))
    assert noise == pytest.approx(expected, rel=1e-3, abs=1e-12)


@pytest.mark.parametrize("name", sorted(CODECS))
@pytest.mark.parametrize("distance", [0.0, 1e-5, 1e-4, 1e-3, 1e-2])
def test_the_mean_of_estimates_is_the_distance_whatever_the_codec(name: str, distance: float) -> None:
    own = weights(1)
    other = apart(own, distance, 2)
    halves = [half_of(name, own, other, seed) for seed in range(12)]
    estimates = [half.estimate for half in halves]
    by_chance = 4 * float(np.std(estimates)) / math.sqrt(len(estimates))
    assert abs(float(np.mean(estimates)) - distance) < 0.05 * distance + 3e-5 + by_chance
    assert by_chance < 4e-4, "otherwise the line above says nothing"
    assert min(half.distance for half in halves) >= 0.0


@pytest.mark.parametrize("name", NARROW)
def test_peers_that_are_near_each_other_are_well_and_exchange_more_seldom(name: str) -> None:
    own, mean, cadence = weights(3), None, Cadence(8, "as the job begins")
    for seed in range(40):
        mean = running_mean(mean, half_of(name, own, apart(own, 1e-5, seed), seed).estimate)
        cadence = steered(cadence, max(0.0, mean), 1e-4)
    assert health(mean) is GossipHealth.WELL
    assert cadence.every > 12


@pytest.mark.parametrize("name", sorted(CODECS))
@given(seed=st.integers(0, 2**32 - 1), way=st.floats(0.02, 0.6))
def test_one_limit_serves_for_every_codec(name: str, seed: int, way: float) -> None:
    own = weights(seed, 20_000)
    other = apart(own, way**2, seed + 1)
    found = reach(half_of(name, own, other, seed, ()), HALF_LIMIT, warming=False, values=own.size)
    assert abs(found.ratio**2 - way**2) < 0.06 * way**2 + 2e-3
    if not 0.93 < way / HALF_LIMIT < 1.07:
        assert found.too_far == (way > HALF_LIMIT)


def test_a_partner_cannot_hide_a_long_half_as_noise() -> None:
    """Weights that one outlier in each group makes as noisy as can be: only the own noise is taken off."""
    own = weights(5)
    other = own.copy()
    other[::64] += 10.0
    found = reach(half_of("int4", own, other, 1), HALF_LIMIT, warming=False, values=own.size)
    assert found.too_far
    plain = halve(own.copy(), other, own.copy())
    assert found.ratio > 0.95 * plain.norm / plain.own_norm


@pytest.mark.parametrize("name", ["bfloat16", "int8", "int4"])
def test_a_swap_takes_the_same_noise_off_as_a_message(name: str) -> None:
    own = weights(7)
    other = apart(own, 1e-4, 8)
    rng = np.random.default_rng(9)
    payload = CODECS[name].encode(other, BLOBS, rng)
    leaving = OutgoingWeights.of(name, own.copy(), BLOBS, np.random.default_rng(10))
    assert leaving is not None
    arriving = IncomingWeights(name, leaving)
    for _ in leaving.pieces():
        pass
    arriving.take(memoryview(payload))
    swapped = arriving.half()
    assert isinstance(swapped, HalfStats)
    received, mine = np.empty_like(own), own.copy()
    CODECS[name].decode(payload, received)
    assert (sent := encoded(name, mine, BLOBS, np.random.default_rng(10))) is not None
    assert halved(sent, received, mine) == swapped
    assert swapped.noise > 0
