"""The listener for connections that carry weights and files. Each must show a ticket that was given out over gRPC."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from gossip_caffe.background import DetachedTasks, unending
from gossip_caffe.gossip.transport import weights_socket


class Listener:
    """Accepts connections with tickets: on ``port``, and from this machine on the abstract Unix socket ``nearby``."""

    def __init__(self, host: str) -> None:
        self.port = 0
        self.nearby = ""
        self._host = host
        self._expected: dict[bytes, asyncio.Future[socket.socket]] = {}
        self._meetings = DetachedTasks()
        self._strangers: dict[socket.socket, None] = {}  # without a ticket so far, the oldest first
        self._accepting = DetachedTasks()
        self._listening: list[socket.socket] = []

    def start(self) -> None:
        """Listen on any free port, and on a Unix socket with a random name. Raises OSError.

        A peer without a host has no port for calls, and gets none for weights: it listens on the Unix socket only.
        """
        if host := self._host.strip("[]"):
            by_tcp = socket.create_server((host, 0), family=weights_socket.family_of(host))
            self.port = int(by_tcp.getsockname()[1])
            self._listening.append(by_tcp)
        by_name = socket.socket(socket.AF_UNIX)
        self.nearby = f"gossip-caffe-{secrets.token_hex(16)}"
        by_name.bind(weights_socket.abstract(self.nearby))
        by_name.listen()
        self._listening.append(by_name)
        for listening in self._listening:
            listening.setblocking(False)
            accepting = unending(partial(self._accept, listening), "the port for weights", asyncio.sleep)
            self._accepting.begin(accepting, "the port for weights")

    @contextmanager
    def expecting(self) -> Iterator[tuple[bytes, asyncio.Future[socket.socket]]]:
        """A new ticket, and the future connection that will show it. The connection is closed after the block."""
        ticket = secrets.token_bytes(weights_socket.TICKET_BYTES)
        met = self._expected[ticket] = asyncio.get_running_loop().create_future()
        try:
            yield ticket, met
        finally:
            del self._expected[ticket]
            if not met.cancel() and not met.cancelled():
                met.result().close()

    async def stop(self) -> None:
        """Stop listening."""
        self._accepting.cancel()
        self._meetings.cancel()
        for listening in self._listening:
            listening.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                wire, _ = await loop.sock_accept(listening)
            except OSError:
                # The other side has gone, or descriptors are short: the offerer will try again.
                await asyncio.sleep(0.05)
                continue
            if not weights_socket.is_own(wire):
                wire.close()
                continue
            wire.setblocking(False)
            # An expected caller shows its ticket at once, so the oldest connection without a ticket is closed first.
            for oldest in list(self._strangers)[
                : max(0, len(self._strangers) - weights_socket.MOST_STRANGERS + 1)
            ]:
                weights_socket.hang_up(oldest)
                del self._strangers[oldest]
            self._strangers[wire] = None
            self._meetings.begin(self._meet(wire), "a connection for weights")
            await asyncio.sleep(0)  # reads a ticket that has come before it accepts more connections

    async def _meet(self, wire: socket.socket) -> None:
        """Read the ticket of a connection, and hand the connection to the call that expects it; or close it."""
        loop = asyncio.get_running_loop()
        ticket = b""
        try:
            async with asyncio.timeout(weights_socket.CONNECT_S):
                while len(ticket) < weights_socket.TICKET_BYTES and (
                    more := await loop.sock_recv(wire, weights_socket.TICKET_BYTES - len(ticket))
                ):
                    ticket += more
            connected = self._expected.get(ticket)
        except (OSError, TimeoutError):
            connected = None
        except BaseException:
            wire.close()
            raise
        finally:
            self._strangers.pop(wire, None)
        if connected is None or connected.done():
            wire.close()
        else:
            connected.set_result(wire)
