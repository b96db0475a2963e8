"""The wire bytes of a frame, written and read without protobuf's classes: one copy of the data instead of four.

The bytes are those of ``ExchangeMessage(frame=Frame(offset, data, crc32))``, so each side may use this or protobuf.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from gossip_caffe.protofields import varint
from gossip_caffe.wire import gossip_pb2 as wire

_FRAME, _OFFSET, _CRC32, _DATA = 0x12, 0x08, 0x18, 0x12
"""Tags: ExchangeMessage.frame; Frame.offset, .crc32 and .data."""


@dataclass(frozen=True, slots=True)
class RawFrame:
    """``data`` of a payload from ``offset`` (bytes) on, with its checksum; it shares the memory of its source."""

    offset: int
    data: memoryview
    crc32: int


def serialized(part: Any) -> bytes:
    """The wire bytes of a RawFrame, or of a message of the generated classes."""
    if not isinstance(part, RawFrame):
        return bytes(part.SerializeToString())
    fields = b"".join(
        (
            bytes((_OFFSET,)),
            varint(part.offset),
            bytes((_CRC32,)),
            varint(part.crc32),
            bytes((_DATA,)),
            varint(len(part.data)),
        )
    )
    return b"".join((bytes((_FRAME,)), varint(len(fields) + len(part.data)), fields, part.data))


@dataclass(frozen=True, slots=True)
class FrameUnreadable:
    """Bytes that are no message of the protocol. The server answers with the reason; gRPC would say only UNKNOWN."""

    why: str


def readable(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """``parse``, which returns a FrameUnreadable instead of raising DecodeError."""

    def read(message: bytes) -> Any:
        try:
            return parse(message)
        except DecodeError as error:
            return FrameUnreadable(f"the message cannot be read ({error})")

    return read


def parsed(message: bytes) -> Any:
    """A RawFrame if ``message`` is a frame, else a message of the generated classes. Raises DecodeError."""
    return _piece(message) or wire.ExchangeMessage.FromString(message)


def _piece(message: bytes) -> RawFrame | None:
    numbers, here = [], 0
    for tag in (_FRAME, _OFFSET, _CRC32, _DATA):
        if here >= len(message) or message[here] != tag:
            return None
        number, here = _read_varint(message, here + 1)
        numbers.append(number)
        if tag == _FRAME and here + number != len(message):
            return None
    _, offset, crc32, length = numbers
    if here + length != len(message):
        return None
    return RawFrame(offset, memoryview(message)[here:], crc32)


def _read_varint(message: bytes, here: int) -> tuple[int, int]:
    """The number that begins at ``here``, and the place after it; a number without an end takes the whole message."""
    number = 0
    for place in range(here, min(here + 10, len(message))):
        number |= (message[place] & 0x7F) << 7 * (place - here)
        if message[place] < 0x80:
            return number, place + 1
    return number, len(message)
