"""Encodings of fewer than four bytes a value, piece by piece: each call takes at most ``average.BLOCK`` values.

Every encoding is idempotent: decoded values are encoded to the same values again. For that a scale keeps only 17
significant bits. Then each multiple of it up to 127 is exact in float32, and the largest one yields the same scale.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.gossip.averaging import compiled

Flat = NDArray[np.float32]
Bytes = NDArray[np.uint8]

SCALED_TOGETHER = 64
"""The number of values that share one scale."""
SHORT_BLOB_VALUES = 2048
"""Blobs of at most this many values are biases and BatchNorm's sums, where a small value beside a large one matters."""
SMALLEST = np.float32(2.0**-100)
"""Values below this are zero for the encodings with scales."""
FLOAT16_MAX = 65504.0
BFLOAT16_MAX = 3.3895313892515355e38
FINE = 12
"""The number of fractional bits that decide the probability of rounding up."""


class Narrow(Protocol):
    """One encoding. ``limit``: the largest magnitude that it can hold.

    Blobs of at most ``short_blob`` values do not use it. ``stochastic``: ``encode`` needs a generator.
    """

    name: str
    limit: float
    short_blob: int
    stochastic: bool

    def piece_bytes(self, values: int) -> int:
        """The number of bytes of a piece of that many values."""
        ...

    def encode(self, values: Flat, out: Bytes, rng: np.random.Generator | None) -> None:
        """Encode a piece of values within ``limit`` into ``out``, shape (piece_bytes,). ``rng``: for ``stochastic``."""
        ...

    def decode(self, data: Bytes, out: Flat) -> None:
        """Decode a piece into ``out``, float32."""
        ...


class Float16:
    """Half precision: errors up to 2⁻¹¹ of the value (from 6.1e-5 on), or up to 3.0e-8 below that."""

    name = "float16"
    limit = FLOAT16_MAX
    short_blob = 0
    stochastic = False

    def piece_bytes(self, values: int) -> int:
        """Two bytes a value."""
        return 2 * values

    def encode(self, values: Flat, out: Bytes, rng: np.random.Generator | None) -> None:
        """Round to nearest."""
        compiled.narrow(values, out.view("<f2"))

    def decode(self, data: Bytes, out: Flat) -> None:
        """Widen exactly."""
        compiled.widen(data.view("<f2"), out)


class Bfloat16:
    """The upper half of a float32: its whole range, errors up to 2⁻⁸ of the value, or 2⁻¹³⁴ near zero."""

    name = "bfloat16"
    limit = BFLOAT16_MAX
    short_blob = 0
    stochastic = False

    def piece_bytes(self, values: int) -> int:
        """Two bytes a value."""
        return 2 * values

    def encode(self, values: Flat, out: Bytes, rng: np.random.Generator | None) -> None:
        """Round to nearest, ties to even."""
        bits = values.view(np.uint32)
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        odd += np.uint32(0x7FFF)
        odd += bits
        odd >>= np.uint32(16)
        np.copyto(out.view("<u2"), odd, casting="unsafe")

    def decode(self, data: Bytes, out: Flat) -> None:
        """Widen exactly."""
        bits = out.view(np.uint32)
        np.copyto(bits, data.view("<u2"))
        bits <<= np.uint32(16)


class Int8:
    """A byte a value, with one scale for 64: errors up to 1/253 of the largest magnitude among those 64."""

    name = "int8"
    limit = FLOAT16_MAX
    short_blob = SHORT_BLOB_VALUES
    stochastic = False

    def piece_bytes(self, values: int) -> int:
        """A byte a value and four a scale."""
        return values + 4 * groups(values)

    def encode(self, values: Flat, out: Bytes, rng: np.random.Generator | None) -> None:
        """Round to the nearest of 255 levels."""
        multiples, scales = scaled(values, 127)
        np.rint(multiples, out=multiples)
        _put_scales(out, scales)
        np.copyto(out[4 * scales.size :].view(np.int8), multiples.ravel()[: values.size], casting="unsafe")

    def decode(self, data: Bytes, out: Flat) -> None:
        """Multiply each level by its scale."""
        scales = _scales(data, out.size)
        np.copyto(out, data[4 * scales.size :].view(np.int8))
        rescale(out, scales)


class Int4:
    """Half a byte a value, with one scale for 64 and stochastic rounding.

    Errors below 1/6.99 of the largest magnitude among those 64; their mean is zero to 1/50,000 of that magnitude.
    """

    name = "int4"
    limit = FLOAT16_MAX
    short_blob = SHORT_BLOB_VALUES
    stochastic = True

    def piece_bytes(self, values: int) -> int:
        """Half a byte a value and four bytes a scale."""
        return (values + 1) // 2 + 4 * groups(values)

    def encode(self, values: Flat, out: Bytes, rng: np.random.Generator | None) -> None:
        """Round up or down to one of 15 levels at random; the nearer level is the more probable."""
        multiples, scales = scaled(values, 7)
        multiples *= np.float32(1 << FINE)
        levels = np.rint(multiples, out=multiples).astype(np.int32).ravel()
        rng = rng or np.random.default_rng(0)
        levels += rng.integers(0, 1 << FINE, size=levels.size, dtype=np.uint16)
        levels >>= FINE
        levels += 8
        _put_scales(out, scales)
        low, high = levels[0::2], levels[1::2]
        high <<= 4
        high |= low
        packed = out[4 * scales.size :]
        np.copyto(packed, high[: packed.size], casting="unsafe")

    def decode(self, data: Bytes, out: Flat) -> None:
        """Multiply each level by its scale."""
        scales = _scales(data, out.size)
        packed = data[4 * scales.size :]
        np.copyto(out[0::2], packed & np.uint8(15))
        np.copyto(out[1::2], packed[: out.size // 2] >> np.uint8(4))
        out -= np.float32(8)
        rescale(out, scales)


def groups(values: int) -> int:
    """The number of scales of that many values."""
    return -(-values // SCALED_TOGETHER)


def scaled(values: Flat, levels: int) -> tuple[Flat, Flat]:
    """Values as multiples of their group's scale, shape (groups, 64), padded with zeros; and the scales, (groups,).

    The largest magnitude of a group is ``levels`` times its scale, to 2⁻¹⁶.
    """
    rows = np.zeros((groups(values.size), SCALED_TOGETHER), dtype=np.float32)
    rows.ravel()[: values.size] = values
    scales = np.maximum(rows.max(axis=1), -rows.min(axis=1)) / np.float32(levels)
    scales[scales < SMALLEST] = 0
    bits = scales.view(np.uint32)
    bits += np.uint32(0x7F)
    bits &= np.uint32(0xFFFFFF80)
    rows *= np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales > 0)[:, None]
    return rows, scales


def rescale(out: Flat, scales: Flat) -> None:
    """Multiply each group of ``out`` by its scale, in place."""
    whole = out.size // SCALED_TOGETHER
    rows = out[: whole * SCALED_TOGETHER].reshape(whole, SCALED_TOGETHER)
    rows *= scales[:whole, None]
    if whole < scales.size:
        out[whole * SCALED_TOGETHER :] *= scales[-1]


def _put_scales(out: Bytes, scales: Flat) -> None:
    out[: 4 * scales.size] = scales.astype("<f4").view(np.uint8)


def _scales(data: Bytes, values: int) -> Flat:
    return data[: 4 * groups(values)].copy().view("<f4").astype(np.float32, copy=False)
