"""The arithmetic of an exchange."""

from __future__ import annotations

import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gossip_caffe.gossip.averaging.average import BLOCK, Mean, all_finite, distance, halve

finite = st.floats(-(2.0**126), 2.0**126, width=32)
pairs = st.integers(1, 50).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float32, n, elements=finite), hnp.arrays(np.float32, n, elements=finite)
    )
)


@given(pairs)
def test_the_two_halves_are_exact_opposites_and_finite(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    of_a, of_b = np.empty_like(a), np.empty_like(a)
    halve(a, b, of_a)
    halve(b, a, of_b)
    assert np.array_equal(of_a, -of_b)
    assert np.isfinite(of_a).all()


@given(pairs)
def test_a_half_may_be_written_over_either_side(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    expected = np.empty_like(a)
    halve(a, b, expected)
    over_mine, over_theirs = a.copy(), b.copy()
    halve(over_mine, b, over_mine)
    halve(a, over_theirs, over_theirs)
    assert np.array_equal(over_mine, expected)
    assert np.array_equal(over_theirs, expected)


@given(pairs)
def test_the_halves_of_float16_snapshots_cancel_too(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = (np.clip(side, -65504, 65504).astype(np.float16).astype(np.float32) for side in pair)
    of_a, of_b = np.empty_like(a), np.empty_like(a)
    halve(a, b, of_a)
    halve(b, a, of_b)
    assert not (of_a + of_b).any()


def test_no_temporary_of_the_models_size_arises() -> None:
    size = 64 * BLOCK
    a, b = np.ones(size, dtype=np.float32), np.zeros(size, dtype=np.float32)
    tracemalloc.start()
    halve(a, b, a)
    distance(a, b)
    all_finite(a)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < a.nbytes / 4


def test_after_both_halves_the_two_sides_meet_in_the_middle() -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(3 * BLOCK + 7).astype(np.float32) for _ in range(2))
    delta = np.empty_like(a)
    halve(a, b, delta)
    np.testing.assert_allclose(a + delta, (a + b) / 2, rtol=1e-6, atol=5e-7)


def test_the_distance_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(2)
    a, b = (rng.standard_normal(2 * BLOCK + 3).astype(np.float32) for _ in range(2))
    expected = np.sum((b.astype(float) - a) ** 2) / (4 * np.sum(a.astype(float) ** 2))
    assert abs(distance(a, b) / expected - 1) < 1e-12
    assert abs(halve(a, b, np.empty_like(a)).distance / expected - 1) < 1e-6
    assert distance(a, a) == 0.0


def test_a_partner_that_is_all_zero_is_not_near_and_zero_weights_are_near_to_nothing_but_themselves() -> None:
    a, zeros = np.ones(5, dtype=np.float32), np.zeros(5, dtype=np.float32)
    for of in (distance, lambda mine, theirs: halve(mine, theirs, np.empty_like(mine)).distance):
        assert of(a, zeros) == 0.25
        assert of(zeros, a) == 1.0
        assert of(zeros, zeros) == 0.0


def test_one_bad_value_anywhere_is_found() -> None:
    values = np.zeros(2 * BLOCK + 5, dtype=np.float32)
    assert all_finite(values)
    for index in (0, BLOCK - 1, BLOCK, len(values) - 1):
        for bad in (np.nan, np.inf, -np.inf):
            spoilt = values.copy()
            spoilt[index] = bad
            assert not all_finite(spoilt)


def test_a_mean_is_accumulated_in_double_precision() -> None:
    mean = Mean(1)
    for _ in range(1000):
        mean.add(np.array([0.1], dtype=np.float32))
    assert mean.result()[0] == np.float32(0.1)
