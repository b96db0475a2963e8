"""How weights are written on the wire."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gossip_caffe.errors import UsageError
from gossip_caffe.gossip.averaging.average import BLOCK, halve
from gossip_caffe.gossip.codecs.codec import (
    CODECS,
    MOST_RANGES,
    PayloadBroken,
    codec_named,
    largest_payload_bytes,
)
from gossip_caffe.gossip.codecs.narrow import SCALED_TOGETHER, SHORT_BLOB_VALUES

Flat = np.ndarray

sizes = st.integers(1, 300)
within_half = st.floats(-65504, 65504, width=32)
vectors = hnp.arrays(np.float32, sizes, elements=within_half) | st.tuples(
    sizes, st.integers(0, 2**32), st.floats(-30, 4)
).map(lambda t: (np.random.default_rng(t[1]).standard_normal(t[0]) * 10.0 ** t[2]).astype(np.float32))
any_finite = hnp.arrays(np.float32, sizes, elements=st.floats(-(2.0**127), 2.0**127, width=32))
seeds = st.integers(0, 2**32)


def quantised(name: str, values: Flat, blobs: tuple[int, ...] = (), seed: int = 0) -> Flat:
    """Q(values)."""
    codec = CODECS[name]
    decoded = np.full_like(values, np.nan)
    codec.decode(codec.encode(values, blobs, np.random.default_rng(seed)), decoded)
    return decoded


def largest_of_each_group(values: Flat) -> Flat:
    """For each value the largest magnitude among those that share its scale."""
    padded = np.zeros(-(-values.size // SCALED_TOGETHER) * SCALED_TOGETHER)
    padded[: values.size] = np.abs(values)
    largest = padded.reshape(-1, SCALED_TOGETHER).max(axis=1)
    return np.asarray(np.repeat(largest, SCALED_TOGETHER)[: values.size])


def bound(name: str, values: Flat) -> Flat:
    """The documented error of each value."""
    magnitude = np.abs(values.astype(float))
    match name:
        case "float32":
            return np.asarray(np.zeros_like(magnitude))
        case "float16":
            return np.asarray(np.maximum(magnitude * 2.0**-11, 3.0e-8))
        case "bfloat16":
            return np.asarray(np.maximum(magnitude * 2.0**-8, 2.0**-134))
        case "int8":
            return np.asarray(np.maximum(largest_of_each_group(values) / 253, 2.0**-93))
        case "int4":
            return np.asarray(np.maximum(largest_of_each_group(values) / 6.99, 2.0**-97))
    raise AssertionError(f"no bound is documented for {name}")


@pytest.mark.parametrize("name", CODECS)
@given(values=vectors, seed=seeds)
def test_every_codec_stays_within_its_documented_error(name: str, values: Flat, seed: int) -> None:
    error = np.abs(quantised(name, values, seed=seed).astype(float) - values)
    assert (error <= bound(name, values)).all()


@pytest.mark.parametrize("name", CODECS)
@given(values=vectors, seed=seeds)
def test_what_is_decoded_is_encoded_to_the_same_values_again(name: str, values: Flat, seed: int) -> None:
    once = quantised(name, values, seed=seed)
    assert np.array_equal(quantised(name, once, seed=seed + 1), once)
    assert len(CODECS[name].encode(values)) == CODECS[name].payload_bytes(values.size)


@pytest.mark.parametrize("name", CODECS)
@given(values=any_finite, cuts=st.lists(st.integers(0, 300), max_size=5), seed=seeds)
def test_nothing_finite_ever_turns_into_inf_whatever_the_blobs(
    name: str, values: Flat, cuts: list[int], seed: int
) -> None:
    edges = [0, *sorted(min(cut, values.size) for cut in cuts), values.size]
    blobs = tuple(int(size) for size in np.diff(edges))
    decoded = quantised(name, values, blobs, seed)
    assert np.isfinite(decoded).all()
    assert np.array_equal(quantised(name, decoded, blobs, seed + 1), decoded)
    assert len(CODECS[name].encode(values, blobs)) <= largest_payload_bytes(values.size)


@pytest.mark.parametrize("name", CODECS)
@given(values=any_finite, seed=seeds)
def test_the_halves_of_quantised_weights_are_exact_opposites(name: str, values: Flat, seed: int) -> None:
    a, b = quantised(name, values, seed=seed), quantised(name, values[::-1].copy(), seed=seed + 1)
    of_a, of_b = np.empty_like(a), np.empty_like(a)
    halve(a, b, of_a)
    halve(b, a, of_b)
    assert not (of_a + of_b).any()


def test_stochastic_rounding_is_right_in_the_mean() -> None:
    values = np.linspace(-1, 1, SCALED_TOGETHER, dtype=np.float32)
    mean = np.mean([quantised("int4", values, seed=seed) for seed in range(4000)], axis=0)
    np.testing.assert_allclose(mean, values, atol=5 * (1 / 7) / 2 / np.sqrt(4000))


@pytest.mark.parametrize("name", CODECS)
def test_a_payload_does_not_change_with_the_vector_that_it_was_made_of(name: str) -> None:
    values = np.array([0, 1, 7, -7, 0], dtype=np.float32)
    payload = CODECS[name].encode(values)
    values[:] = 7
    decoded = np.empty_like(values)
    CODECS[name].decode(payload, decoded)
    np.testing.assert_allclose(decoded, [0, 1, 7, -7, 0], atol=1)


@pytest.mark.parametrize("name", ["float16", "int8", "int4"])
@pytest.mark.parametrize("beyond", [65505.0, -65505.0, 3e38])
def test_only_the_blob_with_a_value_beyond_the_range_travels_as_float32(name: str, beyond: float) -> None:
    blobs = (100_000, 3_000, 97_000)
    values = np.random.default_rng(1).standard_normal(sum(blobs)).astype(np.float32)
    values[101_000] = beyond
    decoded = quantised(name, values, blobs)
    wide = slice(100_000, 103_000)
    assert np.array_equal(decoded[wide], values[wide])
    assert not np.array_equal(decoded[:100_000], values[:100_000])
    assert not np.array_equal(decoded[103_000:], values[103_000:])
    codec = CODECS[name]
    assert len(codec.encode(values, blobs)) < codec.payload_bytes(values.size) + 4 * 3_000 + 100


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_short_blobs_stay_exact_with_coarse_codecs(name: str) -> None:
    blobs = (5_000, SHORT_BLOB_VALUES, SHORT_BLOB_VALUES + 1)
    values = np.random.default_rng(1).standard_normal(sum(blobs)).astype(np.float32)
    same = quantised(name, values, blobs) == values
    assert same[5_000 : 5_000 + SHORT_BLOB_VALUES].all()
    assert not same[:5_000].all()
    assert not same[5_000 + SHORT_BLOB_VALUES :].all()


def test_so_many_ranges_that_a_header_would_not_hold_them_are_joined() -> None:
    blobs = (1, 1) * (MOST_RANGES + 1)
    values = np.zeros(sum(blobs), dtype=np.float32)
    values[::2] = 1e6
    values[1::2] = 1 / 3
    assert np.array_equal(quantised("float16", values, blobs)[:-1], values[:-1])


@pytest.mark.parametrize("name", CODECS)
def test_a_payload_that_nobody_made_of_so_many_values_is_refused(name: str) -> None:
    values = np.full(500, 1e6, dtype=np.float32)
    values[:400] = 1
    payload = bytes(CODECS[name].encode(values, (400, 100)))
    for broken in (payload[:-1], payload + b"\0", b"", payload[:7], b"\xff" * len(payload)):
        if name == "float32" and len(broken) == len(payload):
            continue
        with pytest.raises(PayloadBroken):
            CODECS[name].decode(broken, np.empty(500, dtype=np.float32))


@given(
    header=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 60), max_size=9), rest=st.binary(max_size=300)
)
def test_no_payload_whatsoever_makes_a_decoder_fail_otherwise(header: list[int], rest: bytes) -> None:
    payload = np.array(header, dtype="<u8").tobytes() + rest
    for codec in CODECS.values():
        try:
            codec.decode(payload, np.empty(50, dtype=np.float32))
        except PayloadBroken:
            continue


@pytest.mark.parametrize("name", CODECS)
def test_a_model_of_ten_megabytes_needs_no_memory_but_its_payload(name: str) -> None:
    values = np.random.default_rng(1).standard_normal(2_500_000).astype(np.float32)
    out = np.empty_like(values)
    rng = np.random.default_rng(2)
    codec = CODECS[name]
    tracemalloc.start()
    codec.decode(codec.encode(values, (1_000_000, 1_500_000), rng), out)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < codec.payload_bytes(values.size) + 30 * BLOCK


def test_an_unknown_codec_is_one_line_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="'morse'; choose one of float32, float16, bfloat16, int8, int4"):
        codec_named("morse")


@given(st.integers(1, 10**6))
def test_no_payload_is_longer_than_the_longest(values: int) -> None:
    assert all(codec.payload_bytes(values) <= largest_payload_bytes(values) for codec in CODECS.values())
