"""The encodings of weights on the wire. A codec's ``decode(encode(x))`` is Q(x) of the protocol.

| codec | bytes a value | error of Q |
|---|---|---|
| float32 | 4 | 0 |
| float16 | 2 | ≤ 2⁻¹¹ of the value (from 6.1e-5 on), ≤ 3.0e-8 below |
| bfloat16 | 2 | ≤ 2⁻⁸ of the value, ≤ 2⁻¹³⁴ near zero |
| int8 | 1.07 | ≤ 1/253 of the largest magnitude among the 64 values that share a scale |
| int4 | 0.57 | < 1/6.99 of that magnitude, stochastic: zero in the mean |

Two kinds of blobs travel as float32 inside the same payload: a blob with a value beyond the encoding's range (65,504;
bfloat16 has the whole range), and for int8 and int4 a blob of at most 2,048 values. The sender decides by the values.
The payload's header names these ranges of values, so the reader needs no other knowledge, and both sides have the same
Q(x).

Every payload except float32's has this layout, all little-endian: the number of ranges as uint64; start and stop of
each range as uint64; the values of the ranges as float32; all other values in the narrow encoding, in pieces of 65,536
values. A run of narrow values between two ranges begins a new piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.errors import UsageError
from gossip_caffe.gossip.averaging import compiled
from gossip_caffe.gossip.averaging.average import BLOCK
from gossip_caffe.gossip.codecs.message import Payload
from gossip_caffe.gossip.codecs.narrow import Bfloat16, Float16, Int4, Int8, Narrow

Flat = NDArray[np.float32]
Range = tuple[int, int]

MOST_RANGES = 1024
"""A net with more separate float32 ranges is sent as float32 from the first of them to the last."""


class PayloadBroken(ValueError):
    """A payload that no encoder makes of that many values."""


class Codec(Protocol):
    """One encoding of whole vectors. ``stochastic``: ``encode`` needs a generator."""

    name: str
    stochastic: bool

    def payload_bytes(self, values: int) -> int:
        """The length of the payload of that many values, if all of them are in the narrow encoding's range."""
        ...

    def encode(
        self, values: Flat, blobs: Sequence[int] = (), rng: np.random.Generator | None = None
    ) -> Payload:
        """The payload of finite ``values``, shape (values,); it does not share their memory.

        ``blobs``: the sizes of the blobs in order, together ``values.size``; (): the vector is one blob.
        """
        ...

    def decode(self, payload: Payload, out: Flat) -> None:
        """Write a payload's ``out.size`` values to ``out``. Raises PayloadBroken if it is not such a payload."""
        ...

    def settle(self, payload: Payload, values: Flat) -> float:
        """Replace ``values`` by those that their own ``payload`` holds. Returns ‖Q(values) − values‖²: the noise."""
        ...


class Float32:
    """The codec that sends values unchanged."""

    name = "float32"
    stochastic = False

    def payload_bytes(self, values: int) -> int:
        """Four bytes a value."""
        return 4 * values

    def encode(
        self, values: Flat, blobs: Sequence[int] = (), rng: np.random.Generator | None = None
    ) -> Payload:
        """The bytes of the values."""
        return values.astype("<f4").view(np.uint8).data

    def decode(self, payload: Payload, out: Flat) -> None:
        """Copy the bytes to ``out``."""
        if len(payload) != 4 * out.size:
            raise PayloadBroken(f"{len(payload)} bytes for {out.size} values of float32")
        np.copyto(out, np.frombuffer(payload, dtype="<f4"))

    def settle(self, payload: Payload, values: Flat) -> float:
        """Change nothing."""
        return 0.0


class Narrowed:
    """The codec of a narrow encoding, with float32 for the blobs that this cannot hold."""

    def __init__(self, narrow: Narrow) -> None:
        self.name = narrow.name
        self.stochastic = narrow.stochastic
        self._narrow = narrow

    def payload_bytes(self, values: int) -> int:
        """The narrow encoding's bytes, and 8 for the header."""
        return self._bytes([], values)

    def encode(
        self, values: Flat, blobs: Sequence[int] = (), rng: np.random.Generator | None = None
    ) -> Payload:
        """Encode the blobs in range narrowly, and all others as float32."""
        wide = self._beyond(values, blobs)
        payload = np.empty(self._bytes(wide, values.size), dtype=np.uint8)
        here = 8 * (1 + 2 * len(wide))
        payload[:here].view("<u8")[:] = [len(wide), *(edge for part in wide for edge in part)]
        for start, stop in wide:
            there = here + 4 * (stop - start)
            payload[here:there].view("<f4")[:] = values[start:stop]
            here = there
        for part in _pieces(wide, values.size):
            there = here + self._narrow.piece_bytes(part.stop - part.start)
            self._narrow.encode(values[part], payload[here:there], rng)
            here = there
        return payload.data

    def decode(self, payload: Payload, out: Flat) -> None:
        """Decode each range by the payload's header."""
        data = np.frombuffer(payload, dtype=np.uint8)
        wide = _ranges(data, out.size)
        if data.size != self._bytes(wide, out.size):
            raise PayloadBroken(f"{data.size} bytes for {out.size} values of {self.name}")
        here = 8 * (1 + 2 * len(wide))
        for start, stop in wide:
            there = here + 4 * (stop - start)
            out[start:stop] = data[here:there].view("<f4")
            here = there
        for part, piece in self._narrow_pieces(data, wide, out.size):
            self._narrow.decode(piece, out[part])

    def settle(self, payload: Payload, values: Flat) -> float:
        """Decode piece by piece; values that travel as float32 have no noise."""
        data = np.frombuffer(payload, dtype=np.uint8)
        rounded = np.empty(min(BLOCK, values.size), dtype=np.float32)
        noise = 0.0
        for part, piece in self._narrow_pieces(data, _ranges(data, values.size), values.size):
            there = rounded[: part.stop - part.start]
            self._narrow.decode(piece, there)
            noise += 4.0 * compiled.halve(values[part], there, values[part])[0]
            values[part] = there
        return noise

    def _narrow_pieces(
        self, data: NDArray[np.uint8], wide: Sequence[Range], values: int
    ) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
        """Each piece of narrow values, and its bytes in the payload."""
        here = 8 * (1 + 2 * len(wide)) + 4 * sum(stop - start for start, stop in wide)
        for part in _pieces(wide, values):
            there = here + self._narrow.piece_bytes(part.stop - part.start)
            yield part, data[here:there]
            here = there

    def _bytes(self, wide: Sequence[Range], values: int) -> int:
        header = 8 * (1 + 2 * len(wide)) + 4 * sum(stop - start for start, stop in wide)
        return header + sum(
            self._narrow.piece_bytes(part.stop - part.start) for part in _pieces(wide, values)
        )

    def _beyond(self, values: Flat, blobs: Sequence[int]) -> list[Range]:
        """The ranges that travel as float32, in order; adjacent ones are joined."""
        ranges: list[Range] = []
        stop = 0
        for size in blobs or (values.size,):
            start, stop = stop, stop + size
            is_short = bool(blobs) and size <= self._narrow.short_blob
            if size and (is_short or not _within(values[start:stop], self._narrow.limit)):
                if ranges and ranges[-1][1] == start:
                    start = ranges.pop()[0]
                ranges.append((start, stop))
        return ranges if len(ranges) <= MOST_RANGES else [(ranges[0][0], ranges[-1][1])]


def _within(values: Flat, limit: float) -> bool:
    return compiled.magnitude(values) <= limit


def _pieces(wide: Sequence[Range], values: int) -> Iterator[slice]:
    """The values outside the ranges, in pieces of at most BLOCK values."""
    here = 0
    for start, stop in (*wide, (values, values)):
        for piece in range(here, start, BLOCK):
            yield slice(piece, min(piece + BLOCK, start))
        here = stop


def _ranges(data: NDArray[np.uint8], values: int) -> list[Range]:
    """The ranges that a payload's header names. Raises PayloadBroken if they are not possible."""
    count = int(data[:8].view("<u8")[0]) if data.size >= 8 else -1
    if not 0 <= count <= MOST_RANGES or data.size < 8 * (1 + 2 * count):
        raise PayloadBroken(f"a payload of {data.size} bytes has no header that can be read")
    edges = [int(edge) for edge in data[8 : 8 * (1 + 2 * count)].view("<u8")]
    ranges = list(zip(edges[0::2], edges[1::2], strict=True))
    here = 0
    for start, stop in ranges:
        if not here <= start < stop <= values:
            raise PayloadBroken(f"the header names values {start} to {stop} of {values}")
        here = stop
    return ranges


CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        Float32(),
        Narrowed(Float16()),
        Narrowed(Bfloat16()),
        Narrowed(Int8()),
        Narrowed(Int4()),
    )
}


def codec_named(name: str) -> Codec:
    """The codec of that name. Raises UsageError, which lists all codecs."""
    if (codec := CODECS.get(name)) is None:
        raise UsageError(f"there is no codec {name!r}", remedy=f"choose one of {', '.join(CODECS)}")
    return codec


def without_ranges() -> bytes:
    """The header of a payload without float32 ranges."""
    return bytes(8)


def largest_payload_bytes(values: int) -> int:
    """The length of the longest payload of that many values: all as float32, in the largest number of ranges."""
    return 4 * values + 8 + 24 * (MOST_RANGES + 1)
