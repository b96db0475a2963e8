"""How weights are written on the wire. A codec's ``decode(encode(x))`` is Q(x) of the protocol.

| codec | bytes a value | error of Q |
|---|---|---|
| float32 | 4 | 0 |
| float16 | 2 | ≤ 2⁻¹¹ of the value (above 6.1e-5), ≤ 3.0e-8 below; values beyond ±65504 do not fit |

Which codec is used is decided per payload, and its header names it: weights that hold a value beyond float16's range
travel as float32, for nothing finite may turn into Inf. The two sides of one exchange may then use different codecs;
both take the halves from the same two decoded vectors, so the halves cancel all the same.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.errors import UsageError
from gossip_caffe.gossip.average import blocks
from gossip_caffe.gossip.message import Payload

Flat = NDArray[np.float32]

FLOAT16_MAX = 65504.0


class Codec(Protocol):
    """One encoding."""

    name: str

    def payload_bytes(self, values: int) -> int:
        """Length of the payload of that many values."""
        ...

    def fits(self, values: Flat) -> bool:
        """Whether every (finite) value is in this encoding's range."""
        ...

    def encode(self, values: Flat) -> Payload:
        """The values as a payload, little-endian; does not share their memory."""
        ...

    def decode(self, payload: Payload, out: Flat) -> None:
        """A payload of the right length as values."""
        ...


class Float32:
    """As they are."""

    name = "float32"

    def payload_bytes(self, values: int) -> int:
        """Four bytes a value."""
        return 4 * values

    def fits(self, values: Flat) -> bool:
        """Always."""
        return True

    def encode(self, values: Flat) -> Payload:
        """The values' own bytes."""
        return values.astype("<f4").view(np.uint8).data

    def decode(self, payload: Payload, out: Flat) -> None:
        """The bytes as values."""
        np.copyto(out, np.frombuffer(payload, dtype="<f4"))


class Float16:
    """Half precision: half the bytes, and no loss of accuracy that could be measured in training."""

    name = "float16"

    def payload_bytes(self, values: int) -> int:
        """Two bytes a value."""
        return 2 * values

    def fits(self, values: Flat) -> bool:
        """Whether all values are within ±65504."""
        return all(
            float(values[part].min()) >= -FLOAT16_MAX and float(values[part].max()) <= FLOAT16_MAX
            for part in blocks(values.size)
        )

    def encode(self, values: Flat) -> Payload:
        """Rounded to nearest."""
        return values.astype("<f2").view(np.uint8).data

    def decode(self, payload: Payload, out: Flat) -> None:
        """Back to float32, exactly."""
        np.copyto(out, np.frombuffer(payload, dtype="<f2"))


CODECS: dict[str, Codec] = {codec.name: codec for codec in (Float32(), Float16())}


def codec_named(name: str) -> Codec:
    """The codec of that name. Raises UsageError that lists those that there are."""
    if (codec := CODECS.get(name)) is None:
        raise UsageError(f"there is no codec {name!r}", remedy=f"choose one of {', '.join(CODECS)}")
    return codec


def fitting(name: str, values: Flat) -> Codec:
    """The codec of that name, or float32 when the values do not fit."""
    codec = codec_named(name)
    return codec if codec.fits(values) else CODECS["float32"]


def largest_payload_bytes(values: int) -> int:
    """The longest payload that any codec makes of that many values."""
    return max(codec.payload_bytes(values) for codec in CODECS.values())
