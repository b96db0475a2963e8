"""Pieces of weights that are sealed with AES-128-GCM: nobody between the two sides reads or changes one.

The key of a connection comes over another connection, with certificates, and is used for this one alone. Each
direction has a key of its own, and each piece the next number as its nonce, so a piece that is left out, repeated,
moved or cut is noticed. It costs a third of what TLS by Python's ssl does, which hands over 16 KiB at a time.
"""

from __future__ import annotations

import functools
import importlib.util
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_ONE_BYTES = 16
KEY_BYTES = 2 * _ONE_BYTES
TAG_BYTES = 16
"""The length by which a sealed piece is longer."""
_NONCE_BYTES = 12


class SealBroken(Exception):
    """A piece is not the one that was sent."""


@functools.cache
def can_seal() -> bool:
    """Whether the package is there that seals (cryptography)."""
    return importlib.util.find_spec("cryptography") is not None


def new_key() -> bytes:
    """A key for one connection; b"" where nothing can be sealed."""
    return secrets.token_bytes(KEY_BYTES) if can_seal() else b""


class Seals:
    """The seals of one side of a connection: ``seal`` for what it sends, ``open`` for what it receives.

    One thread may seal while another opens. ``answers``: this is the side that has made the key.
    """

    def __init__(self, key: bytes, *, answers: bool) -> None:
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - an optional package
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

        if len(key) != KEY_BYTES:
            raise SealBroken(f"a key of {len(key)} bytes")
        own, other = key[:_ONE_BYTES], key[_ONE_BYTES:]
        self._leaving: AESGCM = AESGCM(own if answers else other)
        self._arriving: AESGCM = AESGCM(other if answers else own)
        self._broken = InvalidTag
        self._sealed = 0
        self._opened = 0

    def seal(self, piece: memoryview | bytes, head: bytes, into: memoryview) -> None:
        """Seal the next piece ``into`` a buffer that is TAG_BYTES longer. ``head`` is protected, and not hidden."""
        self._leaving.encrypt_into(self._sealed.to_bytes(_NONCE_BYTES, "little"), piece, head, into)
        self._sealed += 1

    def open(self, sealed: memoryview, head: bytes | bytearray) -> memoryview:
        """Open the next piece in its place, and return it. Raises SealBroken."""
        piece = sealed[: len(sealed) - TAG_BYTES]
        try:
            self._arriving.decrypt_into(
                self._opened.to_bytes(_NONCE_BYTES, "little"), sealed, bytes(head), piece
            )
        except self._broken:
            raise SealBroken(f"the seal of piece {self._opened} does not fit") from None
        self._opened += 1
        return piece
