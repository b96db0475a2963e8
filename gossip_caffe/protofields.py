"""Fields of protobuf messages, encoded and decoded without the library.

They serve for data that is too large for one message object.
"""

from __future__ import annotations

from collections.abc import Iterator

_LONGEST_VARINT = 10


def varint(value: int) -> bytes:
    """The varint of a non-negative number: seven bits per byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def number_field(field: int, value: int) -> bytes:
    """A whole field with a non-negative number (wire type 0)."""
    return varint(field << 3) + varint(value)


def head(field: int, length: int) -> bytes:
    """The bytes before the ``length`` bytes of a field of text, bytes, packed numbers or a message (wire type 2)."""
    return varint(field << 3 | 2) + varint(length)


def text_field(field: int, text: str) -> bytes:
    """A whole field of text."""
    content = text.encode()
    return head(field, len(content)) + content


def field_bytes(field: int, kind: int, value: int | memoryview) -> bytes:
    """The original bytes of a field that ``fields`` yielded."""
    if isinstance(value, int):
        return number_field(field, value)
    return (head(field, len(value)) if kind == 2 else varint(field << 3 | kind)) + bytes(value)


def fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Field number, wire type and value of each field. A value is a number, or a view of the field's bytes.

    Raises ValueError when the message is torn or is no protobuf.
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
