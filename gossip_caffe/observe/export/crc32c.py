"""CRC-32C (Castagnoli), the checksum of TensorBoard's records, and its mask.

Python's own CRC has another polynomial. One table is enough for some hundred bytes a second.
"""

from __future__ import annotations

_POLYNOMIAL = 0x82F63B78
"""That of Castagnoli, with the lowest bit first (RFC 3720, section B.4)."""
_MASK = 0xA282EAD8


def _entry(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
    return value


_TABLE = tuple(map(_entry, range(256)))


def crc32c(content: bytes) -> int:
    """The CRC-32C of ``content``."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def masked_crc32c(content: bytes) -> int:
    """The CRC-32C in the form that records hold: rotated by 15 bits, plus a constant, in 32 bits.

    Records may hold CRCs themselves, and the CRC of a text with its own CRC would be a constant.
    """
    crc = crc32c(content)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF
