"""Fast reading of many raw Datums of one shape, without parsing each.

A data set's raw Datums nearly always begin with the same bytes (channels, height, width, the length of the pixels) and
end with the label. Any other record is left to ``datum.decode``, which parses it and names a fault.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from gossip_caffe.protofields import varint
from gossip_caffe.wire import caffe_wire_pb2 as wire

# Field keys of Datum in caffe.proto: number << 3 | wire type.
_CHANNELS, _HEIGHT, _WIDTH, _DATA, _LABEL, _ENCODED = 0x08, 0x10, 0x18, 0x22, 0x28, 0x38
_LONGEST_LABEL = 5
"""The bytes of a varint below 2³¹. A negative label has ten bytes, and is left to ``datum.decode``."""

Pixels = NDArray[np.uint8]

_JOINED_BYTES = 1 << 14
"""Records up to this size are joined and cut as one array; for larger ones the copy costs more than it saves."""


@dataclass(frozen=True, slots=True)
class RawRun:
    """The common form of raw Datums of one shape. ``head``: all bytes before the pixels; ``shape``: of the pixels."""

    head: bytes
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, serialized: bytes) -> RawRun | None:
        """Read the form from one serialized record; None when that is not a raw Datum of bytes."""
        try:
            datum = wire.Datum.FromString(serialized)
        except DecodeError:
            return None
        shape = (datum.channels, datum.height, datum.width)
        if datum.encoded or min(shape) <= 0 or len(datum.data) != math.prod(shape):
            return None
        fields = zip((_CHANNELS, _HEIGHT, _WIDTH, _DATA), (*shape, len(datum.data)), strict=True)
        head = b"".join(bytes([key]) + varint(value) for key, value in fields)
        return cls(head, shape) if serialized.startswith(head) else None

    @property
    def pixels(self) -> int:
        """The number of bytes of one record's pixels."""
        return math.prod(self.shape)

    def read(self, values: Sequence[Any]) -> tuple[Pixels | list[Pixels], NDArray[np.int64]] | None:
        """Read serialized records (bytes-like). Returns their pixels, each of shape ``shape``, and their labels.

        None when a record has another form. The pixels are views of the records, or of a copy of all if they are small.
        """
        start, stop = len(self.head), len(self.head) + self.pixels
        lengths = set(map(len, values))
        if not values or min(lengths) < stop:
            return None
        if len(lengths) == 1 and stop <= _JOINED_BYTES:
            table = np.frombuffer(b"".join(values), dtype=np.uint8).reshape(len(values), -1)
            if not (table[:, :start] == np.frombuffer(self.head, np.uint8)).all():
                return None
            labels = _labels(table[:, stop:])
            return None if labels is None else (table[:, start:stop].reshape(-1, *self.shape), labels)
        found = np.empty(len(values), dtype=np.int64)
        for index, value in enumerate(values):
            label = _labels(np.frombuffer(bytes(value[stop:]), np.uint8)[None])
            if value[:start] != self.head or label is None:
                return None
            found[index] = label[0]
        pixels = [np.frombuffer(value, np.uint8, self.pixels, start).reshape(self.shape) for value in values]
        return pixels, found


def _labels(tails: Pixels) -> NDArray[np.int64] | None:
    """Read the labels of n records from the bytes after the pixels, shape (n, m); None: these are not labels."""
    if tails.shape[1] == 2 and (tails[:, 0] == _LABEL).all() and tails[:, 1].max() <= 0x7F:
        return tails[:, 1].astype(np.int64)  # nearly all data sets with up to 128 classes
    if tails.shape[1] >= 2 and (tails[:, -2:] == (_ENCODED, 0)).all():
        tails = tails[:, :-2]
    if tails.shape[1] == 0:
        return np.zeros(len(tails), dtype=np.int64)
    digits = tails[:, 1:].astype(np.int64)
    count = digits.shape[1]
    goes_on = np.arange(count) < count - 1  # all bytes of a varint but the last have their highest bit set
    if not 1 <= count <= _LONGEST_LABEL or not (tails[:, 0] == _LABEL).all():
        return None
    if not ((digits > 0x7F) == goes_on).all():
        return None
    labels: NDArray[np.int64] = ((digits & 0x7F) << (7 * np.arange(count))).sum(axis=1)
    return labels if (labels < 1 << 31).all() else None
