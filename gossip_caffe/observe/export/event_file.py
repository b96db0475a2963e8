"""TensorBoard's event file: records of scalars, appended one by one.

A record is its length (uint64), the masked CRC of these eight bytes (uint32), its content, and the masked CRC of the
content (uint32), all with the lowest byte first. The content is a protobuf message, of which three kinds are needed:

- ``Event``: 1 wall seconds (double), 2 step (int64), 3 the version (text, in the first record only), 5 a ``Summary``
- ``Summary``: 1 a ``Value``, repeated
- ``Value``: 1 tag (text), 2 the scalar (float)
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path

from gossip_caffe.observe.export.crc32c import masked_crc32c
from gossip_caffe.protofields import head, number_field, text_field, varint
from gossip_caffe.system.folders import open_within

VERSION = "brain.Event:2"
"""The version that a reader expects in the first record."""
INSTEAD = "give another --tensorboard, or check its disk"


class EventFile:
    """One event file. A torn record would hide all that follow, so one that the disk does not take is removed."""

    def __init__(self, path: Path, wall_s: float) -> None:
        """Create the file, or replace it. Raises EnvironmentProblem."""
        self.path = path
        self._file = open_within(path, "wb", INSTEAD)
        self._size = 0
        self._version = record(event(wall_s) + text_field(3, VERSION))

    def write(self, wall_s: float, step: int, scalars: Mapping[str, float]) -> None:
        """Append the scalars of one step: tag → value. Raises OSError; the file then holds what it held before."""
        summary = b"".join(_embedded(1, _value(tag, value)) for tag, value in scalars.items())
        self._append(record(event(wall_s, step) + _embedded(5, summary)))

    def _append(self, content: bytes) -> None:
        content = self._version + content
        rest = content
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(self._size)
            self._file.seek(self._size)
            raise
        self._version = b""
        self._size += len(content)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def record(content: bytes) -> bytes:
    """The content as a record."""
    length = struct.pack("<Q", len(content))
    checks = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
    return length + next(checks) + content + next(checks)


def event(wall_s: float, step: int = 0) -> bytes:
    """The first fields of an ``Event``."""
    return varint(1 << 3 | 1) + struct.pack("<d", wall_s) + number_field(2, step)


def _value(tag: str, value: float) -> bytes:
    try:
        single = struct.pack("<f", value)
    except OverflowError:
        single = struct.pack("<f", math.copysign(math.inf, value))  # beyond what a float32 can hold
    return text_field(1, tag) + varint(2 << 3 | 5) + single


def _embedded(field: int, message: bytes) -> bytes:
    return head(field, len(message)) + message
