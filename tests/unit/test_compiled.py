"""The compiled arithmetic and NumPy's give the same values, whatever comes in."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gossip_caffe.gossip.averaging import compiled

anything = st.floats(width=32)
finite = st.floats(-(2.0**126), 2.0**126, width=32)
within_half = st.floats(-65504.0, 65504.0, width=32)

pytestmark = pytest.mark.skipif(
    not compiled.IS_COMPILED, reason="there was no compiler when the package was built; NumPy is all there is"
)


def both(work: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
    with patch.object(compiled, "arithmetic", None):
        plain = work(*arguments)
    return work(*arguments), plain


def arrays(elements: st.SearchStrategy[float], count: int) -> st.SearchStrategy[list[np.ndarray]]:
    return st.integers(0, 40).flatmap(
        lambda n: st.lists(hnp.arrays(np.float32, n, elements=elements), min_size=count, max_size=count)
    )


@given(arrays(finite, 2), st.booleans())
def test_halves_are_the_same_to_the_bit(sides: list[np.ndarray], in_place: bool) -> None:
    mine, theirs = sides

    def half() -> tuple[np.ndarray, tuple[float, float, float]]:
        out = theirs.copy() if in_place else np.empty_like(mine)
        return out, compiled.halve(mine, out if in_place else theirs, out)

    (out, figures), (plain_out, plain_figures) = both(half)
    assert out.tobytes() == plain_out.tobytes()
    np.testing.assert_allclose(
        figures, plain_figures, rtol=1e-12, atol=1e-9 * float(np.abs(out.astype(np.float64)).sum())
    )


@given(arrays(within_half, 2))
def test_halves_of_float16_are_those_of_its_values(sides: list[np.ndarray]) -> None:
    mine, theirs = sides
    halves = theirs.astype(np.float16)

    def half() -> np.ndarray:
        out = np.empty_like(mine)
        compiled.halve(mine, halves, out, True)
        return out

    out, plain = both(half)
    expected = halves.astype(np.float32) * np.float32(0.5) - mine.astype(np.float16).astype(
        np.float32
    ) * np.float32(0.5)
    assert np.array_equal(out, expected)
    assert np.array_equal(plain, expected)


@given(arrays(within_half, 1))
def test_float16_is_the_same_to_the_bit_there_and_back(sides: list[np.ndarray]) -> None:
    values = sides[0]

    def trip() -> tuple[bytes, bytes]:
        halves, back = np.empty(values.size, np.float16), np.empty_like(values)
        compiled.narrow(values, halves)
        compiled.widen(halves, back)
        return halves.tobytes(), back.tobytes()

    ours, plain = both(trip)
    assert ours == plain


@given(arrays(anything, 2))
def test_whatever_is_not_finite_shows_in_the_figures(sides: list[np.ndarray]) -> None:
    mine, theirs = sides
    everything_is_finite = bool(np.isfinite(mine).all() and np.isfinite(theirs).all())

    def figures() -> tuple[bool, bool]:
        with np.errstate(all="ignore"):
            squares = compiled.halve(mine, theirs, np.empty_like(mine))[0]
            return math.isfinite(squares), math.isfinite(compiled.magnitude(mine))

    for finite_half, finite_mine in both(figures):
        assert finite_half == everything_is_finite
        assert finite_mine == bool(np.isfinite(mine).all())


@given(arrays(finite, 1))
def test_the_largest_magnitude_is_found(sides: list[np.ndarray]) -> None:
    ours, plain = both(compiled.magnitude, sides[0])
    assert ours == plain == (float(np.abs(sides[0]).max()) if sides[0].size else 0.0)


def test_buffers_of_different_lengths_are_refused() -> None:
    three, four = np.zeros(3, np.float32), np.zeros(4, np.float32)
    arithmetic = importlib.import_module("gossip_caffe.gossip.averaging.arithmetic")
    with pytest.raises(ValueError, match="not of as many values"):
        arithmetic.halve(three, four, three, False, False)
    with pytest.raises(ValueError, match="not of as many values"):
        arithmetic.narrow(three, np.zeros(4, np.float16))
    with pytest.raises(ValueError, match="not of as many values"):
        arithmetic.widen(np.zeros(4, np.float16), three)


@given(st.integers(1, 5).flatmap(lambda count: arrays(anything, count)))
def test_means_are_the_same_to_the_bit(parts: list[np.ndarray]) -> None:
    def mean() -> tuple[np.ndarray, list[float]]:
        out = np.empty_like(parts[0])
        _, figures = compiled.mean(parts, out)
        return out, [most for _, most in figures]

    (out, most), (plain_out, plain_most) = both(mean)
    np.testing.assert_array_equal(out, plain_out)
    np.testing.assert_array_equal(np.isfinite(most), np.isfinite(plain_most))
    np.testing.assert_array_equal(most, plain_most)


@given(st.integers(1, 5), st.integers(1, 10_000), st.integers(0, 2**31))
def test_the_figures_of_a_mean_are_those_of_float64(count: int, values: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.standard_normal(values).astype(np.float32) for _ in range(count)]
    out = np.empty(values, np.float32)
    for square, figures in both(compiled.mean, parts, out):
        wide = out.astype(np.float64)
        assert square == pytest.approx(float(wide @ wide), rel=1e-9)
        for part, (apart, most) in zip(parts, figures, strict=True):
            assert apart == pytest.approx(float(((part - wide) ** 2).sum()), rel=1e-9, abs=1e-12)
            assert most == np.abs(part).max()


def test_a_mean_of_nothing_and_of_unequal_lengths_is_refused() -> None:
    out = np.empty(4, np.float32)
    with pytest.raises(ValueError, match="no "):
        compiled.mean([], out)
    with pytest.raises(ValueError, match="as many"):
        compiled.mean([np.ones(4, np.float32), np.ones(3, np.float32)], out)
