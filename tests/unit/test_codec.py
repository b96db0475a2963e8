"""How weights are written on the wire."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gossip_caffe.gossip.codec import CODECS, fitting

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
