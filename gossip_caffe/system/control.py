"""The side of a child process: it takes messages from its parent, and sends others.

``children.py`` is the parent's side. This file imports no asyncio: no solver and no loader needs it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

from gossip_caffe.begin import collect_as_usual
from gossip_caffe.errors import ExitCode, GossipCaffeError

CONTROL_FD = "--control-fd"
"""The argument of a child that names the descriptor of its socket."""
LENGTH = struct.Struct("<I")
"""The length prefix of a message."""
_MAX_FDS = 8


class Control:
    """The child's end of the socket."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._buffer = b""
        self._fds: list[int] = []

    @property
    def fd(self) -> int:
        """The socket's descriptor, for polling together with others."""
        return self._socket.fileno()

    def receive(self, timeout_s: float | None) -> tuple[dict[str, Any], list[int]] | None:
        """Receive the next message and its descriptors; None when none comes within ``timeout_s``.

        Raises EOFError when the parent is gone.
        """
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        while True:
            if len(self._buffer) >= LENGTH.size:
                (length,) = LENGTH.unpack_from(self._buffer)
                if len(self._buffer) >= LENGTH.size + length:
                    body = self._buffer[LENGTH.size : LENGTH.size + length]
                    self._buffer = self._buffer[LENGTH.size + length :]
                    message = json.loads(body)
                    count = message.pop("fds", 0)
                    fds, self._fds = self._fds[:count], self._fds[count:]
                    return message, fds
            if not poller.poll(None if timeout_s is None else timeout_s * 1000):
                return None
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, 1 << 16, _MAX_FDS)
            except ConnectionResetError:
                data = b""  # the parent closed it without reading our last messages
            if not data:
                raise EOFError("the control socket is closed")
            for fd in fds:
                os.set_inheritable(fd, False)
            self._buffer += data
            self._fds += fds

    def send(self, message: Mapping[str, object]) -> None:
        """Send a message to the parent. If the parent is gone, the next ``receive`` raises."""
        body = json.dumps(message).encode()
        try:
            self._socket.sendall(LENGTH.pack(len(body)) + body)
        except ConnectionError:
            pass


def given_control() -> Control:
    """The socket that the parent's ``Child`` names in this process's arguments."""
    return Control(int(sys.argv[sys.argv.index(CONTROL_FD) + 1]))


def run_child(serve: Callable[[Control], None]) -> int:
    """Run a child process until ``serve`` returns or the parent ends. Returns the exit code.

    An error that the user can correct is sent to the parent as {"failed": one line, "remedy": …}.
    """
    collect_as_usual()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):  # the agent alone decides about these
        signal.signal(number, signal.SIG_IGN)
    control = given_control()
    try:
        serve(control)
    except EOFError:
        return ExitCode.OK
    except GossipCaffeError as error:
        control.send({"failed": error.message, "remedy": error.remedy})
        return error.exit_code
    return ExitCode.OK
