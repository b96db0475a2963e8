"""How weights are written on the wire."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gossip_caffe.errors import UsageError
from gossip_caffe.gossip.codec import CODECS, codec_named, fitting, largest_payload_bytes

vectors = hnp.arrays(np.float32, st.integers(1, 100), elements=st.floats(-65504, 65504, width=32))
any_finite = hnp.arrays(np.float32, st.integers(1, 100), elements=st.floats(-(2.0**127), 2.0**127, width=32))


@pytest.mark.parametrize("name", CODECS)
@given(values=vectors)
def test_what_is_decoded_is_encoded_to_the_same_bytes_again(name: str, values: np.ndarray) -> None:
    codec = CODECS[name]
    payload = codec.encode(values)
    assert len(payload) == codec.payload_bytes(values.size)
    decoded = np.empty_like(values)
    codec.decode(payload, decoded)
    assert codec.encode(decoded) == payload


@given(values=vectors)
def test_float32_loses_nothing(values: np.ndarray) -> None:
    decoded = np.empty_like(values)
    CODECS["float32"].decode(CODECS["float32"].encode(values), decoded)
    assert np.array_equal(decoded, values)


@given(values=vectors)
def test_float16_stays_within_its_documented_error(values: np.ndarray) -> None:
    decoded = np.empty_like(values)
    CODECS["float16"].decode(CODECS["float16"].encode(values), decoded)
    bound = np.maximum(np.abs(values.astype(float)) * 2.0**-11, 3.0e-8)
    assert (np.abs(decoded.astype(float) - values) <= bound).all()


@given(values=any_finite)
def test_nothing_finite_ever_turns_into_inf(values: np.ndarray) -> None:
    codec = fitting("float16", values)
    decoded = np.empty_like(values)
    codec.decode(codec.encode(values), decoded)
    assert np.isfinite(decoded).all()
    assert codec.name == ("float16" if np.abs(values).max() <= 65504 else "float32")


@pytest.mark.parametrize("name", CODECS)
def test_a_payload_does_not_change_with_the_vector_that_it_was_made_of(name: str) -> None:
    values = np.arange(5, dtype=np.float32)
    payload = CODECS[name].encode(values)
    values[:] = 7
    decoded = np.empty_like(values)
    CODECS[name].decode(payload, decoded)
    assert decoded.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("beyond", [65505.0, -65505.0, 3e38])
def test_one_value_beyond_half_precision_makes_the_whole_payload_float32(beyond: float) -> None:
    values = np.zeros(200_000, dtype=np.float32)
    values[-1] = beyond
    assert fitting("float16", values).name == "float32"
    values[-1] = np.sign(beyond) * 65504
    assert fitting("float16", values).name == "float16"


def test_an_unknown_codec_is_one_line_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="'morse'; choose one of float32, float16"):
        codec_named("morse")


def test_no_payload_is_longer_than_the_longest() -> None:
    assert largest_payload_bytes(100) == max(codec.payload_bytes(100) for codec in CODECS.values()) == 400
