"""A socket for messages within an event loop: JSON objects with a length prefix, with file descriptors beside them.

The other end is ``control.Control``, which polls.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gossip_caffe.system.control import LENGTH

_PIECE_BYTES = 1 << 16


class MessageSocket:
    """One end of a Unix stream socket; call it within the event loop.

    ``on_message`` is called with each message. An error of it is given to ``on_fault``, and no further message is
    taken. ``on_closed`` is called once, when the other end has gone.
    """

    def __init__(
        self,
        end: socket.socket,
        on_message: Callable[[dict[str, Any]], None],
        on_fault: Callable[[Exception], None],
        on_closed: Callable[[], None] = lambda: None,
    ) -> None:
        self._socket = end
        self._socket.setblocking(False)
        self._on_message = on_message
        self._on_fault = on_fault
        self._on_closed = on_closed
        self._received = b""
        self._outgoing: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._is_faulty = False
        asyncio.get_running_loop().add_reader(self._socket, self.read)

    def send(self, message: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        """Send a message. Never blocks: the part that the socket does not accept now is sent later.

        Raises OSError, and sends nothing, when no descriptor is left to copy one of ``fds``.
        """
        body = json.dumps({**message, "fds": len(fds)} if fds else message).encode()
        copies: list[int] = []
        try:
            for fd in fds:
                copies.append(os.dup(fd))
        except OSError:
            for copy in copies:
                os.close(copy)
            raise
        self._outgoing.append((LENGTH.pack(len(body)) + body, tuple(copies)))
        self._write()

    def read(self) -> None:
        """Take the messages that are there."""
        gone = False
        while self._socket.fileno() >= 0:
            try:
                data = self._socket.recv(_PIECE_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.close()
                gone = True
                break
            self._received += data
        try:
            self._hear()
        except Exception as error:  # a callback of the loop has no caller
            self._is_faulty = True
            self._received = b""
            self._on_fault(error)
        if gone:
            self._on_closed()

    def close(self) -> None:
        """Close the socket; messages that were not sent yet are lost."""
        if self._socket.fileno() >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            loop.remove_writer(self._socket)
            self._socket.close()
        while self._outgoing:
            for fd in self._outgoing.popleft()[1]:
                os.close(fd)

    def _hear(self) -> None:
        while not self._is_faulty and len(self._received) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._received)
            if len(self._received) < LENGTH.size + length:
                return
            body = self._received[LENGTH.size : LENGTH.size + length]
            self._received = self._received[LENGTH.size + length :]
            self._on_message(json.loads(body))

    def _write(self) -> None:
        while self._outgoing and self._socket.fileno() >= 0:
            data, fds = self._outgoing.popleft()
            try:
                sent = socket.send_fds(self._socket, [data], fds) if fds else self._socket.send(data)
            except BlockingIOError:
                self._outgoing.appendleft((data, fds))
                asyncio.get_running_loop().add_writer(self._socket, self._write)
                return
            except OSError:
                self._outgoing.appendleft((data, fds))
                self.close()
                return
            for fd in fds:
                os.close(fd)
            if sent < len(data):
                self._outgoing.appendleft((data[sent:], ()))
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_writer(self._socket)
