"""The swap of weights over a plain connection, both ways at once: gRPC copies each byte four times, a socket once.

A connection begins with a ticket of 16 bytes, which the listening side has given out over gRPC for one exchange. Then
each side sends frames: the length and the CRC-32 of the data, both uint32 little-endian, and the data. A frame of
length 0 is the last one. Sending and receiving block one thread each, so that neither waits for the event loop.

Peers on one machine (for example with several GPUs) connect by an abstract Unix socket, which takes half the time of
TCP over loopback. Its name is random and not reachable from other machines; these use TCP. Each side ends a connection
of another user of this machine at once.

Between peers with certificates a connection by TCP is sealed (security/sealing.py) with a key that came with the
ticket: each frame's data, also those of the last frame, are followed by a tag, and the place of the CRC-32 is 0. On the
Unix socket nothing is sealed: it does not leave the machine, and both ends belong to one user.

If a connection ends before its first byte has come, the weights, or the file, go over gRPC instead.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from itertools import chain
from typing import Any

import numpy as np
from isal import isal_zlib

from gossip_caffe.background import checked_by_owner, owned, surely_ended
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.codecs.message import FramesCorrupt
from gossip_caffe.gossip.protocol.swap import PIECE_BYTES, BothWays
from gossip_caffe.gossip.protocol.transport import Prepare
from gossip_caffe.security.sealing import TAG_BYTES, SealBroken, Seals

TICKET_BYTES = 16
SILENCE_S = 10.0
"""A swap ends if the other side sends nothing, or takes nothing, for this time."""
CONNECT_S = 5.0
"""The time that a connection may take, and the time that its ticket may take."""
NEARBY_BUFFER_BYTES = 1 << 20
"""The buffer size that is requested for Unix sockets, whose buffers do not grow by themselves."""
MOST_STRANGERS = 16
"""The number of connections that have not shown a ticket yet; a further one closes the oldest of them."""
_HEAD = struct.Struct("<II")
_TIME = struct.Struct("ll")
_CREDENTIALS = struct.Struct("3i")
_LAST = memoryview(b"")


class CannotConnect(FramesCorrupt):
    """The connection for the weights cannot be made; nothing was sent."""


class ConnectionClosed(FramesCorrupt):
    """The other side sends no more. ``is_refused``: it ended the connection before its first byte came."""

    def __init__(self, message: str, is_refused: bool = False) -> None:
        super().__init__(message)
        self.is_refused = is_refused


def ready(wire: socket.socket) -> None:
    """Make a connected socket blocking, with SILENCE_S as its timeout."""
    wire.setblocking(True)
    if wire.family == socket.AF_UNIX:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NEARBY_BUFFER_BYTES)
    else:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    patience = _TIME.pack(int(SILENCE_S), int(SILENCE_S % 1 * 1e6))
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)


def send(wire: socket.socket, pieces: Iterator[memoryview], seals: Seals | None = None) -> None:
    """Send all pieces, and the frame that ends them. Raises OSError."""
    if seals is not None:
        _send_sealed(wire, pieces, seals)
        return
    for piece in pieces:
        head = _HEAD.pack(len(piece), isal_zlib.crc32(piece))
        sent = wire.sendmsg((head, piece)) - len(head)
        if sent < 0:
            wire.sendall(head[sent:])
            sent = 0
        if sent < len(piece):
            wire.sendall(piece[sent:])
    wire.sendall(_HEAD.pack(0, 0))


def _send_sealed(wire: socket.socket, pieces: Iterator[memoryview], seals: Seals) -> None:
    frame = memoryview(bytearray(_HEAD.size + PIECE_BYTES + TAG_BYTES))
    for piece in chain(pieces, (_LAST,)):
        head, end = _HEAD.pack(len(piece), 0), _HEAD.size + len(piece) + TAG_BYTES
        frame[: _HEAD.size] = head
        seals.seal(piece, head, frame[_HEAD.size : end])
        wire.sendall(frame[:end])


def receive(wire: socket.socket, take: Callable[[memoryview], None], seals: Seals | None = None) -> None:
    """Call ``take`` with every received piece, until the last. The next piece overwrites the one before.

    Raises OSError, FramesCorrupt, and the errors of ``take``.
    """
    scratch = np.empty(PIECE_BYTES + TAG_BYTES, dtype=np.uint8).data
    tag_bytes = TAG_BYTES if seals is not None else 0
    head = bytearray(_HEAD.size)
    taken = 0
    while True:
        fill(wire, memoryview(head), taken, is_first=not taken)
        length = piece_length(head, taken)
        piece = fill_piece(wire, head, scratch[: length + tag_bytes], taken, seals)
        if length == 0:
            return
        take(piece)
        taken += length


def piece_length(head: bytes | bytearray, taken: int) -> int:
    """The length of the data of a frame, in bytes. Raises FramesCorrupt if it is over the limit."""
    length, _ = _HEAD.unpack(head)
    if length > PIECE_BYTES:
        raise FramesCorrupt(f"a frame of {length} bytes at {taken}, and the limit is {PIECE_BYTES}")
    return int(length)


def fill_piece(
    wire: socket.socket, head: bytes | bytearray, view: memoryview, taken: int, seals: Seals | None
) -> memoryview:
    """Receive the data of a frame into ``view``, which has its length, and check it. Returns it without its tag.

    ``taken``: the bytes of weights before it. Raises OSError, ConnectionClosed, and FramesCorrupt.
    """
    fill(wire, view, taken)
    if seals is not None:
        return opened(seals, view, head, taken)
    if len(view) and isal_zlib.crc32(view) != _HEAD.unpack(head)[1]:
        raise FramesCorrupt(f"the checksum of the frame at {taken} does not fit")
    return view


def opened(seals: Seals, piece: memoryview, head: bytes | bytearray, taken: int) -> memoryview:
    """Open a piece in its place, and return it without its tag. Raises FramesCorrupt.

    ``taken``: the bytes of weights before it.
    """
    try:
        return seals.open(piece, head)
    except SealBroken:
        raise FramesCorrupt(f"the seal of the frame at {taken} does not fit") from None


def fill(wire: socket.socket, view: memoryview, taken: int, is_first: bool = False) -> None:
    """Receive as many bytes as ``view`` has. Raises OSError, and ConnectionClosed if they do not come.

    ``taken``: the bytes of weights before them. ``is_first``: none has come over this connection yet.
    """
    here = 0
    while here < len(view):
        try:
            count = wire.recv_into(view[here:], 0, socket.MSG_WAITALL)
        except BlockingIOError:
            raise ConnectionClosed(
                f"nothing came for {SILENCE_S:g} s after {taken + here} bytes of weights"
            ) from None
        except ConnectionError as error:
            after = f"the connection broke after {taken + here} bytes of weights ({error.strerror})"
            raise ConnectionClosed(after, is_refused=is_first and not here) from None
        if not count:
            raise ConnectionClosed(
                f"the connection ended after {taken + here} bytes of weights",
                is_refused=is_first and not here,
            )
        here += count


async def swap_over(
    connecting: Awaitable[socket.socket], prepare: Prepare, threads: Executor, seals: Seals | None = None
) -> None:
    """Prepare the own weights while the connection is made, then ``carry`` them, sealed if it is made by TCP.

    Raises the errors of these three, and CannotConnect if the connection takes too long.
    """
    preparing = owned(prepare(), "weights that are made ready", checked_by_owner)
    wire: socket.socket | None = None
    try:
        try:
            async with asyncio.timeout(CONNECT_S):
                wire = await connecting
        except TimeoutError:
            raise CannotConnect(f"no connection for the weights within {CONNECT_S:g} s") from None
        await carry(wire, await preparing, threads, None if wire.family == socket.AF_UNIX else seals)
    finally:
        if wire is not None:
            wire.close()
        await surely_ended(preparing)  # a thread may still write into the snapshot


async def carry(wire: socket.socket, swap: BothWays, threads: Executor, seals: Seals | None = None) -> None:
    """Send and receive at the same time over a connected socket. Raises SwapInterrupted, and the errors of the swap."""
    loop = asyncio.get_running_loop()
    try:
        ready(wire)
    except OSError as error:
        raise _broken(error, None) from None
    sending = loop.run_in_executor(threads, send, wire, swap.leaving.pieces(), seals)
    receiving = loop.run_in_executor(threads, receive, wire, swap.arriving.take, seals)
    await both(wire, swap, sending, receiving)


async def both(
    wire: socket.socket, swap: BothWays, sending: asyncio.Future[None], receiving: asyncio.Future[Any]
) -> None:
    """Wait for the threads that send and receive. They have ended at the end, and so has the connection after an error.

    Raises SwapInterrupted, and the errors of the swap.
    """
    try:
        await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_EXCEPTION)
    finally:
        # After any end, even a cancelled wait, both threads are ended first: only then may the descriptor be closed.
        if not (sending.done() and receiving.done()):
            hang_up(wire)
            swap.leaving.gone.give_up()
        await surely_ended(sending, receiving)
        sent, received = sending.exception(), receiving.exception()
    if sent is not None or received is not None:
        raise _broken(sent, received)


def hang_up(wire: socket.socket) -> None:
    """End a connection, also for a thread that blocks on it."""
    try:
        wire.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the other side has ended it already


class SwapInterrupted(FramesCorrupt):
    """A swap ended before both sides' weights were whole.

    ``all_sent``: the own weights were sent whole. ``is_cut``: the partner's weights ended early, and all that came was
    valid. ``is_refused``: the connection ended before its first byte came, as it does without a valid ticket.
    """

    def __init__(self, message: str, all_sent: bool, is_cut: bool, is_refused: bool = False) -> None:
        super().__init__(message)
        self.all_sent = all_sent
        self.is_cut = is_cut
        self.is_refused = is_refused


def _broken(sent: BaseException | None, received: BaseException | None) -> BaseException:
    """The error that ended a swap: invalid received data first, then a failed reception, then a failed sending."""
    for error in (received, sent):
        if error is not None and not isinstance(error, ExchangeFailed | OSError):
            return error
    all_sent = sent is None
    if isinstance(received, ExchangeFailed):
        is_refused = isinstance(received, ConnectionClosed) and received.is_refused
        return SwapInterrupted(received.message, all_sent, isinstance(received, ConnectionClosed), is_refused)
    error = received or sent
    silence = isinstance(error, BlockingIOError)
    reason = f"the partner took nothing for {SILENCE_S:g} s" if silence else f"the connection broke ({error})"
    return SwapInterrupted(reason, all_sent, True)


def is_own(wire: socket.socket) -> bool:
    """Whether the other end of a Unix socket belongs to the same user (SO_PEERCRED, unix(7)); True for TCP.

    An abstract Unix socket has no file, and so no mode that would exclude other users of the machine.
    """
    if wire.family != socket.AF_UNIX:
        return True
    credentials = wire.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(credentials)
    return bool(uid == os.geteuid())


def family_of(host: str) -> socket.AddressFamily:
    """The address family of a host: IPv6 if it has colons."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def abstract(name: str) -> str:
    """The address of an abstract Unix socket (unix(7)): it has no file, and exists within its network namespace."""
    return f"\0{name}"


async def connect(host: str, port: int, ticket: bytes, nearby: str = "") -> socket.socket:
    """A connection that has sent its ticket: by the Unix socket ``nearby`` if it is on this machine, else by TCP.

    Raises CannotConnect.
    """
    loop = asyncio.get_running_loop()
    reason = "no address"
    ways: list[tuple[int, Any]] = [(socket.AF_UNIX, abstract(nearby))] if nearby else []
    try:
        found = (
            await loop.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM) if host and port else ()
        )
        ways += [(family, target) for family, _, _, _, target in found]
    except OSError as error:
        reason = error.strerror or str(error)
    for family, target in ways:
        wire = socket.socket(family, socket.SOCK_STREAM)
        wire.setblocking(False)
        try:
            await loop.sock_connect(wire, target)
            if not is_own(wire):
                raise PermissionError(0, "another user listens there")
            await loop.sock_sendall(wire, ticket)
        except OSError as error:
            wire.close()
            reason = error.strerror or str(error)
        except asyncio.CancelledError:
            wire.close()
            raise
        else:
            return wire
    where = f"{host}:{port}" if host else "the partner on this machine"
    raise CannotConnect(f"cannot connect to {where} for the weights ({reason})")
