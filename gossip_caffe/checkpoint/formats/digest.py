"""The digest of a checkpoint's files: BLAKE3 with 256 bits.

It is as hard to forge as SHA-256, and one core computes it about as fast as memory is read. SHA-256 took more than
half of the time of a pull, and again when the copy was loaded.
"""

from __future__ import annotations

from io import RawIOBase
from typing import BinaryIO

from blake3 import blake3

PIECE_BYTES = 1 << 20


def new_digest() -> blake3:
    """An empty digest, with ``update`` and ``hexdigest`` like hashlib's."""
    return blake3()


def digest_of(content: bytes) -> str:
    """The digest of bytes in memory, in hexadecimal."""
    return blake3(content).hexdigest()


def read_into_digest(file: BinaryIO) -> tuple[blake3, int]:
    """The digest of a file from its current position to its end, and the position of the end. Raises OSError."""
    digest = blake3()
    while piece := file.read(PIECE_BYTES):
        digest.update(piece)
    return digest, file.tell()


class HashingWriter:
    """A file that hashes and counts the bytes that are written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = new_digest()
        self.size_bytes = 0

    def write(self, piece: bytes | memoryview) -> int:
        """Write the bytes and return their number. Raises OSError."""
        self.digest.update(piece)
        self.size_bytes += len(piece)
        return self._file.write(piece)


class HashingReader:
    """A file that hashes and counts the bytes that are read from it. ``file`` must be unbuffered."""

    def __init__(self, file: RawIOBase) -> None:
        self._file = file
        self.digest = new_digest()
        self.size_bytes = 0

    def fill(self, into: memoryview) -> bool:
        """Fill the buffer with the next bytes. Returns False when the file ends first. Raises OSError."""
        here = 0
        while here < len(into):
            count = self._file.readinto(into[here : here + PIECE_BYTES])
            if not count:
                break
            self.digest.update(
                into[here : here + count]
            )  # while these bytes are still in the processor's cache
            here += count
        self.size_bytes += here
        return here == len(into)

    def exhaust(self) -> bool:
        """Read the rest of the file. Returns True if there was none. Raises OSError."""
        scratch, before = memoryview(bytearray(PIECE_BYTES)), self.size_bytes
        while self.fill(scratch):
            pass
        return self.size_bytes == before
