"""The transfer of a file over a separate connection: sent from the page cache, hashed and written while it arrives.

gRPC copies each byte several times, in the event loop's thread. Here the kernel sends the file, and receiving, hashing
and writing have a thread each. Between machines with certificates it goes in sealed pieces (security/sealing.py).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Semaphore
from typing import BinaryIO, Protocol

import numpy as np

from gossip_caffe.background import surely_ended
from gossip_caffe.gossip.codecs.message import FramesCorrupt
from gossip_caffe.gossip.protocol import swap
from gossip_caffe.gossip.transport import weights_socket
from gossip_caffe.security.sealing import Seals

PIECE_BYTES = 4 << 20
SEALED_BYTES = swap.PIECE_BYTES
"""The length of a sealed piece."""
SEND_BYTES = 16 << 20
"""The number of bytes that the kernel is told to send in one call."""
PULL_SILENCE_S = 20.0
"""A holder that sends nothing for this time counts as failed."""
PIECES_AHEAD = 6
"""The number of received pieces that may wait to be hashed and written: the memory of a transfer."""


class Digest(Protocol):
    """A hash that is computed piece by piece."""

    def update(self, piece: memoryview, /) -> object:
        """Hash one more piece."""
        ...


@dataclass(slots=True)
class FileSink:
    """The destination of a file: it is written to ``file`` and hashed by ``digest``, at most ``most_bytes`` of it.

    ``told`` is called with the number of bytes received so far.
    """

    file: BinaryIO
    digest: Digest
    most_bytes: int
    told: Callable[[int], None]
    came: int = 0

    async def take(self, piece: bytes) -> None:
        """Hash and write, in a thread, a piece that came over gRPC."""
        piece = piece[: self.most_bytes - self.came]
        await asyncio.to_thread(self._keep, memoryview(piece))
        self.came += len(piece)
        self.told(self.came)

    def _keep(self, piece: memoryview) -> None:
        self.digest.update(piece)
        _write(self.file, piece)


@dataclass(slots=True)
class FileProgress:
    """The number of bytes of a file that were sent so far."""

    bytes: int = 0


def send_file(wire: socket.socket, path: Path, offset: int, sent: FileProgress) -> None:
    """Send a file from ``offset`` (bytes) to its end over a blocking socket; ``sent`` counts. Raises OSError."""
    with path.open("rb") as file:
        while count := os.sendfile(wire.fileno(), file.fileno(), offset, SEND_BYTES):
            offset += count
            sent.bytes += count


def send_sealed_file(wire: socket.socket, path: Path, offset: int, sent: FileProgress, seals: Seals) -> None:
    """As ``send_file``, but in sealed pieces. Raises OSError."""
    weights_socket.send(wire, _pieces_of(path, offset, sent), seals)


def _pieces_of(path: Path, offset: int, sent: FileProgress) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(SEALED_BYTES))
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while count := file.readinto(buffer):
            yield buffer[:count]
            sent.bytes += count


def receive_sealed_file(
    wire: socket.socket,
    most_bytes: int,
    file: BinaryIO,
    digest: Digest,
    told: Callable[[int], None],
    seals: Seals,
) -> int:
    """As ``receive_file``, but of sealed pieces, each hashed and written as it comes: to open one takes little time.

    A piece that is not the one that was sent ends the transfer, too.
    """
    came = 0
    failed: OSError | None = None

    def take(piece: memoryview) -> None:
        nonlocal came, failed
        piece = piece[: most_bytes - came]
        digest.update(piece)
        try:
            _write(file, piece)
        except OSError as error:
            failed = error
            raise
        came += len(piece)
        told(came)
        if came == most_bytes:
            raise _Enough

    try:
        weights_socket.receive(wire, take, seals)
    except (OSError, FramesCorrupt, _Enough):
        if failed is not None:
            raise failed from None
    return came


class _Enough(Exception):
    """All bytes have come that were asked for."""


def receive_file(
    wire: socket.socket, most_bytes: int, file: BinaryIO, digest: Digest, told: Callable[[int], None]
) -> int:
    """Write and hash received bytes until the connection ends, or until ``most_bytes``; returns their number.

    ``told`` is called with that number after each piece. All bytes before an error are written and hashed. Raises
    OSError if the file cannot be written; a broken connection raises nothing, and only ends the transfer.
    """
    count = min(PIECES_AHEAD, -(-most_bytes // PIECE_BYTES))
    pieces = [np.empty(PIECE_BYTES, dtype=np.uint8).data for _ in range(count)]
    unhashed, unwritten = Semaphore(count), Semaphore(count)
    came = number = 0
    with ThreadPoolExecutor(1, "hashing") as hashing, ThreadPoolExecutor(1, "writing") as writing:
        begun: list[Future[None]] = []
        while came < most_bytes:
            ended = [future for future in begun if future.done()]
            for future in ended:
                future.result()  # an error of hashing or writing ends the transfer
            begun = [future for future in begun if future not in ended]
            unhashed.acquire()
            unwritten.acquire()
            piece = pieces[number % count][: most_bytes - came]
            if length := _fill(wire, piece):
                begun.append(hashing.submit(_take, digest.update, piece[:length], unhashed))
                begun.append(writing.submit(_take, partial(_write, file), piece[:length], unwritten))
            came, number = came + length, number + 1
            told(came)
            if length < len(piece):
                break
    for future in begun:
        future.result()
    return came


async def receive_from(connected: socket.socket, into: FileSink, seals: Seals | None = None) -> int:
    """Receive a file in a thread; returns the number of bytes received. Raises OSError if it cannot be written.

    ``seals``: the seals of this side, which are used if the connection is one by TCP.

    When this is cancelled, the connection ends first, and then the thread.
    """
    loop = asyncio.get_running_loop()

    def told(size: int) -> None:
        loop.call_soon_threadsafe(into.told, size)

    try:
        weights_socket.ready(connected)
        receive = receive_file
        if seals is not None and connected.family != socket.AF_UNIX:
            receive = partial(receive_sealed_file, seals=seals)
        receiving = loop.run_in_executor(
            None, receive, connected, into.most_bytes, into.file, into.digest, told
        )
        try:
            return await asyncio.shield(receiving)
        finally:
            if not receiving.done():
                weights_socket.hang_up(connected)
            await surely_ended(receiving)
    finally:
        connected.close()


def _take(take: Callable[[memoryview], object], piece: memoryview, free: Semaphore) -> None:
    try:
        take(piece)
    finally:
        free.release()


def _write(file: BinaryIO, piece: memoryview) -> None:
    while piece:
        piece = piece[file.write(piece) :]


def _fill(wire: socket.socket, piece: memoryview) -> int:
    """Fill a piece, and return its length; it is shorter if the connection ends, breaks or is silent for too long."""
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
