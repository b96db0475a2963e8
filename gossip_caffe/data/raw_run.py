"""Many raw Datums of one shape at a time, without parsing each.

A data set's raw Datums nearly always begin with the same bytes (channels, height, width, the length of the pixels) and
end with the label. What looks otherwise is left to ``datum.decode``, which is careful and names what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from gossip_caffe.wire import caffe_wire_pb2 as wire

# Field keys of Datum in caffe.proto: number << 3 | wire type.
_CHANNELS, _HEIGHT, _WIDTH, _DATA, _LABEL, _ENCODED = 0x08, 0x10, 0x18, 0x22, 0x28, 0x38
_LONGEST_LABEL = 5
"""Bytes of a varint below 2³¹; a negative one has ten, and is left to the parser."""

_JOINED_BYTES = 1 << 14
"""Records up to this size are joined and cut as one array; larger ones are not worth the copy."""


@dataclass(frozen=True, slots=True)
class RawRun:
    """What the raw Datums of one shape have in common: all bytes before the pixels."""

    head: bytes
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, serialized: bytes) -> RawRun | None:
        """Learn it from one record; None when that is no raw Datum of bytes."""
        try:
            datum = wire.Datum.FromString(serialized)
        except DecodeError:
            return None
        shape = (datum.channels, datum.height, datum.width)
        if datum.encoded or not datum.data or len(datum.data) != shape[0] * shape[1] * shape[2]:
            return None
        fields = zip((_CHANNELS, _HEIGHT, _WIDTH, _DATA), (*shape, len(datum.data)), strict=True)
        head = b"".join(bytes([key]) + _varint(value) for key, value in fields)
        return cls(head, shape) if serialized.startswith(head) else None

    @property
    def pixels(self) -> int:
        """Bytes of one record's pixels."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    def read(
        self, values: Sequence[Any]
    ) -> tuple[list[NDArray[np.uint8]] | NDArray[np.uint8], list[int]] | None:
        """Pixels, each of shape ``shape``, and labels of serialized records (bytes-like); None when one is not alike.

        The pixels are views: of the records, or of a copy of all when they are small.
        """
        start, stop = len(self.head), len(self.head) + self.pixels
        labels = []
        for value in values:
            if len(value) < stop or value[:start] != self.head:
                return None
            label = _label(bytes(value[stop:]))
            if label is None:
                return None
            labels.append(label)
        lengths = {len(value) for value in values}
        if len(lengths) == 1 and stop <= _JOINED_BYTES:
            joined = np.frombuffer(b"".join(values), dtype=np.uint8).reshape(len(values), lengths.pop())
            return joined[:, start:stop].reshape(len(values), *self.shape), labels
        return [
            np.frombuffer(value, dtype=np.uint8, count=self.pixels, offset=start).reshape(self.shape)
            for value in values
        ], labels


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _label(tail: bytes) -> int | None:
    """The label that ends a record; None when something else is there too."""
    if tail.endswith(bytes([_ENCODED, 0])):
        tail = tail[:-2]
    if not tail:
        return 0
    if tail[0] != _LABEL or not 2 <= len(tail) <= 1 + _LONGEST_LABEL or tail[-1] > 0x7F:
        return None
    label = 0
    for place, byte in enumerate(tail[1:]):
        if (byte > 0x7F) != (place < len(tail) - 2):
            return None
        label |= (byte & 0x7F) << (7 * place)
    return label if label < 1 << 31 else None
