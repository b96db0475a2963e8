"""The digest of a checkpoint's files: BLAKE3, of 256 bits.

As hard to forge as SHA-256, and on one core about as fast as memory is: SHA-256 took more of a pull's time than all
else of it together, and again when the copy was loaded.
"""

from __future__ import annotations

from io import RawIOBase
from typing import BinaryIO

from blake3 import blake3

PIECE_BYTES = 1 << 20


def new_digest() -> blake3:
    """An empty one, with ``update`` and ``hexdigest`` as hashlib's have."""
    return blake3()


def digest_of(content: bytes) -> str:
    """Of bytes in memory, in hexadecimal."""
    return blake3(content).hexdigest()


def read_into_digest(file: BinaryIO) -> tuple[blake3, int]:
    """Of a file from where it stands to its end, and where that is. Raises OSError."""
    digest = blake3()
    while piece := file.read(PIECE_BYTES):
        digest.update(piece)
    return digest, file.tell()


class HashingWriter:
    """A file that hashes and counts what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = new_digest()
        self.size_bytes = 0

    def write(self, piece: bytes | memoryview) -> int:
        """As a file's. Raises OSError."""
        self.digest.update(piece)
        self.size_bytes += len(piece)
        return self._file.write(piece)


class HashingReader:
    """A file that hashes and counts what is read from it. ``file`` has no buffer of its own."""

    def __init__(self, file: RawIOBase) -> None:
        self._file = file
        self.digest = new_digest()
        self.size_bytes = 0

    def fill(self, into: memoryview) -> bool:
        """Fill it with the next bytes; False when there are not enough. Raises OSError."""
        here = 0
        while here < len(into):
            count = self._file.readinto(into[here : here + PIECE_BYTES])
            if not count:
                break
            self.digest.update(into[here : here + count])  # while it is still in the processor's cache
            here += count
        self.size_bytes += here
        return here == len(into)

    def exhaust(self) -> bool:
        """Read what is left; whether there was nothing. Raises OSError."""
        scratch, before = memoryview(bytearray(PIECE_BYTES)), self.size_bytes
        while self.fill(scratch):
            pass
        return self.size_bytes == before
