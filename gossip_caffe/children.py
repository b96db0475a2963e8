"""A peer's child processes: spawned, spoken to over a socket, waited for, and never left behind.

Messages are JSON objects, each with a length before it, on a Unix stream socket; descriptors ride along. What
a child prints on stderr is kept (its last part), because that is where Caffe says why it aborts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gossip_caffe.errors import ExitCode, GossipCaffeError
from gossip_caffe.processes import die_with_parent, spawn

KEPT_STDERR_LINES = 200
_KEPT_LINE_BYTES = 4096
_LENGTH = struct.Struct("<I")
_MAX_FDS = 8


@dataclass(frozen=True, slots=True)
class ChildEnd:
    """How a child ended: its exit code, or minus the signal's number, and its last lines of stderr."""

    code: int
    stderr: tuple[str, ...]

    @property
    def how(self) -> str:
        """In words: "exit 3" or "killed by SIGKILL"."""
        return f"exit {self.code}" if self.code >= 0 else f"killed by {signal.Signals(-self.code).name}"


class Control:
    """The child's end of the socket."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._buffer = b""
        self._fds: list[int] = []

    @property
    def fd(self) -> int:
        """The descriptor, to be polled together with others."""
        return self._socket.fileno()

    def receive(self, timeout_s: float | None) -> tuple[dict[str, Any], list[int]] | None:
        """Take the next message and its descriptors; None when none came in time.

        Raises EOFError when the parent is gone.
        """
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        while True:
            if len(self._buffer) >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._buffer)
                if len(self._buffer) >= _LENGTH.size + length:
                    body = self._buffer[_LENGTH.size : _LENGTH.size + length]
                    self._buffer = self._buffer[_LENGTH.size + length :]
                    message = json.loads(body)
                    count = message.pop("fds", 0)
                    fds, self._fds = self._fds[:count], self._fds[count:]
                    return message, fds
            if not poller.poll(None if timeout_s is None else timeout_s * 1000):
                return None
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, 1 << 16, _MAX_FDS)
            except ConnectionResetError:
                data = b""  # it was closed with messages of ours unread
            if not data:
                raise EOFError("the control socket is closed")
            for fd in fds:
                os.set_inheritable(fd, False)
            self._buffer += data
            self._fds += fds

    def send(self, message: Mapping[str, object]) -> None:
        """Send a message to the parent; a parent that is gone is noticed on the next receive."""
        body = json.dumps(message).encode()
        try:
            self._socket.sendall(_LENGTH.pack(len(body)) + body)
        except ConnectionError:
            pass


def run_child(serve: Callable[[Control], None]) -> int:
    """Run a child process to its end, which its parent's end brings too; returns the exit code.

    What the user can mend goes to the parent as {"failed": one line, "remedy": …}.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    die_with_parent(options.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the agent's to decide
    control = Control(options.control_fd)
    try:
        serve(control)
    except EOFError:
        return ExitCode.OK
    except GossipCaffeError as error:
        control.send({"failed": error.message, "remedy": error.remedy})
        return error.exit_code
    return ExitCode.OK


class Child:
    """The parent's handle of one child running ``python -m MODULE``."""

    def __init__(self, module: str, on_message: Callable[[dict[str, Any]], None], *arguments: str) -> None:
        self._module = module
        self._arguments = arguments
        self._on_message = on_message
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket
        self._received = b""
        self._outgoing: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._stderr: deque[str] = deque(maxlen=KEPT_STDERR_LINES)
        self._stderr_rest = b""
        self._ended: asyncio.Future[ChildEnd] | None = None
        self._pidfd = -1
        self._stderr_fd = -1

    @property
    def pid(self) -> int:
        """The child's process id; 0 before it was started."""
        return self._process.pid if self._process is not None else 0

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Spawn it; must be called from the main thread, with the event loop running."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writer, True)
        command = [sys.executable, "-m", self._module, "--control-fd", str(theirs.fileno())]
        command += ["--parent", str(os.getpid()), *self._arguments]
        self._process = spawn(
            command, pass_fds=[theirs.fileno()], stdout=writer, stderr=writer, environment=environment
        )
        theirs.close()
        os.close(writer)
        ours.setblocking(False)
        self._socket, self._stderr_fd = ours, reader
        self._ended = loop.create_future()
        self._pidfd = os.pidfd_open(self.pid)
        loop.add_reader(self._pidfd, self._on_end)
        loop.add_reader(reader, self._read_stderr)
        loop.add_reader(ours, self._read_socket)

    def send(self, message: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        """Send a message; never blocks: what the socket does not take now is sent when it does.

        What a child that has ended is sent is dropped.
        """
        if not self.running:
            return  # its end is what ``wait`` tells
        body = json.dumps({**message, "fds": len(fds)} if fds else message).encode()
        self._outgoing.append((_LENGTH.pack(len(body)) + body, tuple(os.dup(fd) for fd in fds)))
        self._write_socket()

    async def wait(self) -> ChildEnd:
        """Wait until it has ended, and tell how. One that was never started ended well."""
        return await asyncio.shield(self._ended) if self._ended is not None else ChildEnd(0, ())

    @property
    def running(self) -> bool:
        """True from its start until it has ended."""
        return self._ended is not None and not self._ended.done()

    def signal(self, number: int) -> None:
        """Send it a signal; nothing happens when it has ended."""
        if self._process is not None and self.running:
            self._process.send_signal(number)

    async def stop(self, message: Mapping[str, object], deadline_s: float) -> ChildEnd:
        """Ask it to end with ``message``, and kill it if it has not after ``deadline_s``."""
        if self.running:
            self.send(message)
            try:
                async with asyncio.timeout(deadline_s):
                    return await self.wait()
            except TimeoutError:
                self.signal(signal.SIGKILL)
        return await self.wait()

    def _on_end(self) -> None:
        if self._process is None or self._ended is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self._process.wait()
        self._read_stderr()
        if self._stderr_fd >= 0:
            loop.remove_reader(self._stderr_fd)
            os.close(self._stderr_fd)
            self._stderr_fd = -1
        if self._socket.fileno() >= 0:
            self._read_socket()
        self._close_socket()
        if self._stderr_rest:
            self._stderr.append(self._stderr_rest.decode("utf-8", "replace"))
        self._ended.set_result(ChildEnd(code, tuple(self._stderr)))

    def _read_stderr(self) -> None:
        while self._stderr_fd >= 0:
            try:
                data = os.read(self._stderr_fd, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                asyncio.get_running_loop().remove_reader(self._stderr_fd)
                os.close(self._stderr_fd)
                self._stderr_fd = -1
                return
            *lines, rest = (self._stderr_rest + data).split(b"\n")
            self._stderr.extend(line[-_KEPT_LINE_BYTES:].decode("utf-8", "replace") for line in lines)
            self._stderr_rest = rest[-_KEPT_LINE_BYTES:]

    def _read_socket(self) -> None:
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._close_socket()
                break
            self._received += data
        while len(self._received) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received)
            if len(self._received) < _LENGTH.size + length:
                return
            body = self._received[_LENGTH.size : _LENGTH.size + length]
            self._received = self._received[_LENGTH.size + length :]
            self._on_message(json.loads(body))

    def _write_socket(self) -> None:
        while self._outgoing and self._socket.fileno() >= 0:
            data, fds = self._outgoing.popleft()
            try:
                sent = socket.send_fds(self._socket, [data], fds) if fds else self._socket.send(data)
            except BlockingIOError:
                self._outgoing.appendleft((data, fds))
                asyncio.get_running_loop().add_writer(self._socket, self._write_socket)
                return
            except OSError:
                self._outgoing.appendleft((data, fds))
                self._close_socket()
                return
            for fd in fds:
                os.close(fd)
            if sent < len(data):
                self._outgoing.appendleft((data[sent:], ()))
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_writer(self._socket)

    def _close_socket(self) -> None:
        if self._socket.fileno() >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            loop.remove_writer(self._socket)
            self._socket.close()
        while self._outgoing:
            for fd in self._outgoing.popleft()[1]:
                os.close(fd)
