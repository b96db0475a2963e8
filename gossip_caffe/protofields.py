"""Fields of protobuf messages written and read by hand, for what is too large to be a message in memory."""

from __future__ import annotations

from collections.abc import Iterator

_LONGEST_VARINT = 10


def varint(value: int) -> bytes:
    """A number that is not negative, seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def number_field(field: int, value: int) -> bytes:
    """A whole field that holds a number which is not negative (wire type 0)."""
    return varint(field << 3) + varint(value)


def head(field: int, length: int) -> bytes:
    """What stands before the ``length`` bytes of a field of text, bytes, packed numbers or a message (wire type 2)."""
    return varint(field << 3 | 2) + varint(length)


def text_field(field: int, text: str) -> bytes:
    """A whole field of text."""
    content = text.encode()
    return head(field, len(content)) + content


def fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Number, wire type and value of each field: a number, or the field's own bytes, of which none is copied.

    Raises ValueError when the message is torn, or of no protobuf.
    """
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        field, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _read_varint(message, at)
            yield field, kind, value
            continue
        if kind == 2:
            length, at = _read_varint(message, at)
        elif kind in {1, 5}:
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + length > len(message):
            raise ValueError(f"field {field} is cut off")
        yield field, kind, message[at : at + length]
        at += length


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(message[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("a number does not end")
