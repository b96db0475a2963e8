"""Weights over a plain connection, both ways at once: gRPC copies each byte four times, a socket once.

A connection begins with a ticket of 16 bytes that the listening side has given out over gRPC for one exchange. Then
each side sends frames: length and CRC-32 of what follows, both uint32 little-endian, then that; a frame of length 0 is
the last. Sending and receiving block a thread each, so that neither waits for the event loop.

Peers on one machine (several GPUs, say) connect by an abstract Unix socket, which takes half the time of TCP over
loopback. It is found by a random name that others do not reach: they use TCP.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

import numpy as np
from isal import isal_zlib

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.message import FramesCorrupt
from gossip_caffe.gossip.swap import PIECE_BYTES, Swap
from gossip_caffe.gossip.transport import Prepare

TICKET_BYTES = 16
SILENCE_S = 10.0
"""A side that takes or sends nothing for so long is given up."""
CONNECT_S = 5.0
"""How long a connection, and the ticket on it, may take."""
NEARBY_BUFFER_BYTES = 1 << 20
"""Asked for on Unix sockets, whose buffers do not grow by themselves."""
MOST_STRANGERS = 16
"""Connections that have not shown their ticket yet; further ones are closed."""
_HEAD = struct.Struct("<II")
_TIME = struct.Struct("ll")


class NoWayThrough(FramesCorrupt):
    """The connection for the weights cannot be made; nothing was sent."""


class Cut(FramesCorrupt):
    """Nothing more comes."""


def ready(wire: socket.socket) -> None:
    """Let a connected socket block, but not for ever."""
    wire.setblocking(True)
    if wire.family == socket.AF_UNIX:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NEARBY_BUFFER_BYTES)
    else:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    patience = _TIME.pack(int(SILENCE_S), int(SILENCE_S % 1 * 1e6))
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)


def send(wire: socket.socket, pieces: Iterator[memoryview]) -> None:
    """Send pieces, and that they are all. Raises OSError."""
    for piece in pieces:
        head = _HEAD.pack(len(piece), isal_zlib.crc32(piece))
        sent = wire.sendmsg((head, piece)) - len(head)
        if sent < 0:
            wire.sendall(head[sent:])
            sent = 0
        if sent < len(piece):
            wire.sendall(piece[sent:])
    wire.sendall(_HEAD.pack(0, 0))


def receive(wire: socket.socket, take: Callable[[memoryview], None]) -> None:
    """Give every piece that comes to ``take``, until the last. Raises OSError, FramesCorrupt and what ``take`` raises.

    A piece is overwritten by the next one.
    """
    scratch = np.empty(PIECE_BYTES, dtype=np.uint8).data
    head = bytearray(_HEAD.size)
    taken = 0
    while True:
        _fill(wire, memoryview(head), taken)
        length, crc32 = _HEAD.unpack(head)
        if length == 0:
            return
        if length > PIECE_BYTES:
            raise FramesCorrupt(f"a frame of {length} bytes at {taken}, {PIECE_BYTES} is the most")
        piece = scratch[:length]
        _fill(wire, piece, taken)
        if isal_zlib.crc32(piece) != crc32:
            raise FramesCorrupt(f"the checksum of the frame at {taken} does not fit")
        take(piece)
        taken += length


def _fill(wire: socket.socket, view: memoryview, taken: int) -> None:
    here = 0
    while here < len(view):
        try:
            count = wire.recv_into(view[here:], 0, socket.MSG_WAITALL)
        except BlockingIOError:
            raise Cut(f"nothing came for {SILENCE_S:g} s after {taken + here} bytes of weights") from None
        if not count:
            raise Cut(f"the connection ended after {taken + here} bytes of weights")
        here += count


async def swap_over(connecting: Awaitable[socket.socket], prepare: Prepare, threads: Executor) -> None:
    """Make ready while the connection is made, then ``carry``.

    Raises what these three raise, and NoWayThrough when the connection takes too long.
    """
    preparing = asyncio.ensure_future(prepare())
    wire: socket.socket | None = None
    try:
        try:
            async with asyncio.timeout(CONNECT_S):
                wire = await connecting
        except TimeoutError:
            raise NoWayThrough(f"no connection for the weights within {CONNECT_S:g} s") from None
        await carry(wire, await preparing, threads)
    finally:
        if wire is not None:
            wire.close()
        await asyncio.wait((preparing,))  # a thread may still write into the snapshot
        if not preparing.cancelled():
            preparing.exception()  # looked at, lest it be reported as forgotten


async def carry(wire: socket.socket, swap: Swap, threads: Executor) -> None:
    """Send and receive at the same time over a connected socket. Raises Broken."""
    loop = asyncio.get_running_loop()
    try:
        ready(wire)
    except OSError as error:
        raise _broken(error, None) from None
    sending = loop.run_in_executor(threads, send, wire, swap.leaving.pieces())
    receiving = loop.run_in_executor(threads, receive, wire, swap.arriving.take)
    try:
        await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_EXCEPTION)
    finally:
        # Whatever it was, even a cancelled wait: the threads end at once, and only then may the descriptor be closed.
        if not (sending.done() and receiving.done()):
            hang_up(wire)
            swap.leaving.gone.give_up()
            await asyncio.wait((sending, receiving))
        sent, received = sending.exception(), receiving.exception()
    if sent is not None or received is not None:
        raise _broken(sent, received)


def hang_up(wire: socket.socket) -> None:
    """End a connection, for the thread that blocks on it too."""
    try:
        wire.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the other side was first


class Broken(FramesCorrupt):
    """Weights did not come, or go, whole. ``all_sent``: ours went; ``is_cut``: theirs ended, and nothing was wrong."""

    def __init__(self, message: str, all_sent: bool, is_cut: bool) -> None:
        super().__init__(message)
        self.all_sent = all_sent
        self.is_cut = is_cut


def _broken(sent: BaseException | None, received: BaseException | None) -> BaseException:
    """What ended a swap: what came, if that was wrong; else that nothing came; else that nothing could be sent."""
    for error in (received, sent):
        if error is not None and not isinstance(error, ExchangeFailed | OSError):
            return error
    all_sent = sent is None
    if isinstance(received, ExchangeFailed):
        return Broken(received.message, all_sent, isinstance(received, Cut))
    error = received or sent
    silence = isinstance(error, BlockingIOError)
    reason = f"the partner took nothing for {SILENCE_S:g} s" if silence else f"the connection broke ({error})"
    return Broken(reason, all_sent, True)


class Listener:
    """Where others connect with the tickets that they were given: a port, and by ``nearby`` those on this machine."""

    def __init__(self, host: str) -> None:
        self.port = 0
        self.nearby = ""
        self._host = host
        self._expected: dict[bytes, asyncio.Future[socket.socket]] = {}
        self._strangers: set[asyncio.Task[None]] = set()
        self._accepting: list[asyncio.Task[None]] = []
        self._listening: list[socket.socket] = []

    def start(self) -> None:
        """Listen on any free port, and on a Unix socket of a random name. Raises OSError."""
        host = self._host.strip("[]")
        by_tcp = socket.create_server((host, 0), family=family_of(host))
        self.port = int(by_tcp.getsockname()[1])
        by_name = socket.socket(socket.AF_UNIX)
        self.nearby = f"gossip-caffe-{secrets.token_hex(16)}"
        by_name.bind(_abstract(self.nearby))
        by_name.listen()
        self._listening = [by_tcp, by_name]
        for listening in self._listening:
            listening.setblocking(False)
            self._accepting.append(asyncio.ensure_future(self._accept(listening)))

    @contextmanager
    def expecting(self) -> Iterator[tuple[bytes, asyncio.Future[socket.socket]]]:
        """A new ticket, and the connection that will come with it, which is closed afterwards."""
        ticket = secrets.token_bytes(TICKET_BYTES)
        met = self._expected[ticket] = asyncio.get_running_loop().create_future()
        try:
            yield ticket, met
        finally:
            del self._expected[ticket]
            if not met.cancel() and not met.cancelled():
                met.result().close()

    async def stop(self) -> None:
        """Listen no more."""
        for task in (*self._accepting, *self._strangers):
            task.cancel()
        for listening in self._listening:
            listening.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                wire, _ = await loop.sock_accept(listening)
            except (
                OSError
            ):  # the other side was gone again, or descriptors are short: the offerer will try again
                await asyncio.sleep(0.05)
                continue
            if len(self._strangers) >= MOST_STRANGERS:
                wire.close()
                continue
            wire.setblocking(False)
            task = asyncio.ensure_future(self._meet(wire))
            self._strangers.add(task)
            task.add_done_callback(self._strangers.discard)

    async def _meet(self, wire: socket.socket) -> None:
        """Hand a connection to whoever expects it, or close it."""
        loop = asyncio.get_running_loop()
        ticket = b""
        try:
            async with asyncio.timeout(CONNECT_S):
                while len(ticket) < TICKET_BYTES and (
                    more := await loop.sock_recv(wire, TICKET_BYTES - len(ticket))
                ):
                    ticket += more
            connected = self._expected.get(ticket)
        except (OSError, TimeoutError):
            connected = None
        except asyncio.CancelledError:
            wire.close()
            raise
        if connected is None or connected.done():
            wire.close()
        else:
            connected.set_result(wire)


def family_of(host: str) -> socket.AddressFamily:
    """IPv6 for an address with colons."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _abstract(name: str) -> str:
    """The address of an abstract Unix socket (unix(7)): it has no file, and ends with its network namespace."""
    return f"\0{name}"


async def connect(host: str, port: int, ticket: bytes, nearby: str = "") -> socket.socket:
    """A connection that has shown its ticket, by the Unix socket ``nearby`` where that is here. Raises NoWayThrough."""
    loop = asyncio.get_running_loop()
    reason = "no address"
    ways: list[tuple[int, Any]] = [(socket.AF_UNIX, _abstract(nearby))] if nearby else []
    try:
        found = await loop.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        ways += [(family, target) for family, _, _, _, target in found]
    except OSError as error:
        reason = error.strerror or str(error)
    for family, target in ways:
        wire = socket.socket(family, socket.SOCK_STREAM)
        wire.setblocking(False)
        try:
            await loop.sock_connect(wire, target)
            await loop.sock_sendall(wire, ticket)
        except OSError as error:
            wire.close()
            reason = error.strerror or str(error)
        except asyncio.CancelledError:
            wire.close()
            raise
        else:
            return wire
    raise NoWayThrough(f"cannot connect to {host}:{port} for the weights ({reason})")
