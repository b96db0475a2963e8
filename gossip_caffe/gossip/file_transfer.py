"""A file over a plain connection: sent from the page cache, and hashed and written while it arrives.

gRPC copies each byte several times, in the event loop's thread; here sending is the kernel's, and receiving, hashing
and writing have a thread each.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Semaphore
from typing import BinaryIO, Protocol

import numpy as np

PIECE_BYTES = 4 << 20
PULL_SILENCE_S = 20.0
"""A holder that sends nothing for so long has failed."""
PIECES_AHEAD = 6
"""How many pieces may have arrived and not be hashed or written yet: what a transfer takes of memory."""


class Digest(Protocol):
    """What hashes."""

    def update(self, piece: memoryview, /) -> object:
        """Take in more."""
        ...


@dataclass(slots=True)
class Into:
    """Where a file goes: written to ``file`` and hashed by ``digest``, at most ``most_bytes`` of it.

    ``told`` gets the number of bytes that came so far.
    """

    file: BinaryIO
    digest: Digest
    most_bytes: int
    told: Callable[[int], None]
    came: int = 0

    def take(self, piece: bytes) -> None:
        """Take a piece that came on another way."""
        piece = piece[: self.most_bytes - self.came]
        self.digest.update(memoryview(piece))
        _write(self.file, memoryview(piece))
        self.came += len(piece)
        self.told(self.came)


def send_file(wire: socket.socket, path: Path, offset: int) -> None:
    """Send a file from ``offset`` to its end over a blocking socket. Raises OSError."""
    with path.open("rb") as file:
        while sent := os.sendfile(wire.fileno(), file.fileno(), offset, 1 << 30):
            offset += sent


def receive_file(
    wire: socket.socket, most_bytes: int, file: BinaryIO, digest: Digest, told: Callable[[int], None]
) -> int:
    """Write and hash what comes until the connection ends, or until ``most_bytes``; returns how many bytes came.

    ``told`` gets that number now and then. What came before an error is written and hashed. Raises OSError when it
    cannot be written; a connection that breaks only ends it.
    """
    count = min(PIECES_AHEAD, -(-most_bytes // PIECE_BYTES))
    pieces = [np.empty(PIECE_BYTES, dtype=np.uint8).data for _ in range(count)]
    unhashed, unwritten = Semaphore(count), Semaphore(count)
    came = number = 0
    with ThreadPoolExecutor(1, "hashing") as hashing, ThreadPoolExecutor(1, "writing") as writing:
        written: list[Future[None]] = []
        while came < most_bytes and not any(future.exception() for future in written if future.done()):
            written = [future for future in written if not future.done()]
            unhashed.acquire()
            unwritten.acquire()
            piece = pieces[number % count][: most_bytes - came]
            if length := _fill(wire, piece):
                hashing.submit(_take, digest.update, piece[:length], unhashed)
                written.append(writing.submit(_take, partial(_write, file), piece[:length], unwritten))
            came, number = came + length, number + 1
            told(came)
            if length < len(piece):
                break
    for future in written:
        future.result()
    return came


def _take(take: Callable[[memoryview], object], piece: memoryview, free: Semaphore) -> None:
    try:
        take(piece)
    finally:
        free.release()


def _write(file: BinaryIO, piece: memoryview) -> None:
    while piece:
        piece = piece[file.write(piece) :]


def _fill(wire: socket.socket, piece: memoryview) -> int:
    """Fill a piece; less when the connection ends, breaks or is silent for long."""
    here = 0
    while here < len(piece):
        try:
            count = wire.recv_into(piece[here:])
        except OSError:
            break
        if not count:
            break
        here += count
    return here
