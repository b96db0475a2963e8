"""A peer's child processes: they are started, exchange messages over a socket, are awaited, and never outlive the peer.

Messages are JSON objects with a length prefix, on a Unix stream socket; file descriptors can be sent along. The
child's side is in ``control.py``. The last part of a child's stderr is kept, because Caffe prints there why it aborts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from gossip_caffe.begin import python_command
from gossip_caffe.system.control import CONTROL_FD
from gossip_caffe.system.messages import MessageSocket
from gossip_caffe.system.processes import end_descriptor, no_room, spawn

LOG = logging.getLogger(__name__)
KEPT_STDERR_LINES = 200
_KEPT_LINE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class ChildEnd:
    """The end of a child: its exit code and its last lines of stderr.

    The code is minus the signal's number if a signal killed the child.
    """

    code: int
    stderr: tuple[str, ...]

    @property
    def how(self) -> str:
        """The end as text: "exit 3" or "killed by SIGKILL"."""
        return f"exit {self.code}" if self.code >= 0 else f"killed by {signal.Signals(-self.code).name}"


class Child:
    """The parent's handle of one child that runs a module of this package. ``on_lines`` receives its output."""

    def __init__(
        self,
        module: str,
        on_message: Callable[[dict[str, Any]], None],
        *arguments: str,
        on_lines: Callable[[Sequence[str]], None] = lambda _: None,
    ) -> None:
        self._module = module
        self._arguments = arguments
        self._on_message = on_message
        self._on_lines = on_lines
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: MessageSocket
        self._stderr: deque[str] = deque(maxlen=KEPT_STDERR_LINES)
        self._stderr_rest = b""
        self._ended: asyncio.Future[ChildEnd] | None = None
        self._pidfd = -1
        self._stderr_fd = -1
        self._unheard = ""

    @property
    def pid(self) -> int:
        """The child's process id; 0 before it is started."""
        return self._process.pid if self._process is not None else 0

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start the child. Must be called from the main thread, while the event loop runs.

        Raises EnvironmentProblem when the machine cannot run another process; nothing remains of the child then.
        """
        try:
            self._start(environment)
        except OSError as error:
            raise no_room(f"a process of {self._module}", error) from error

    def _start(self, environment: Mapping[str, str] | None) -> None:
        loop = asyncio.get_running_loop()
        with ExitStack() as undo, ExitStack() as done:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            undo.callback(ours.close)
            done.callback(theirs.close)
            reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            undo.callback(os.close, reader)
            done.callback(os.close, writer)
            os.set_blocking(writer, True)
            words = (CONTROL_FD, str(theirs.fileno()), *self._arguments)
            command = python_command(self._module, *words)
            process = spawn(
                command, pass_fds=[theirs.fileno()], stdout=writer, stderr=writer, environment=environment
            )
            pidfd = end_descriptor(process)
            undo.pop_all()
        self._process, self._stderr_fd, self._pidfd = process, reader, pidfd
        self._socket = MessageSocket(ours, self._on_message, self._on_fault)
        self._ended = loop.create_future()
        loop.add_reader(pidfd, self._on_end)
        loop.add_reader(reader, self._read_stderr)

    def send(self, message: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        """Send a message. Never blocks: the part that the socket does not accept now is sent later.

        A message to a child that has ended is dropped. Raises OSError, and sends nothing, when no descriptor is left
        to copy one of ``fds``.
        """
        if not self.running:
            return  # ``wait`` reports the child's end
        self._socket.send(message, fds)

    async def wait(self) -> ChildEnd:
        """Wait for the child's end. A child that was never started has exit code 0.

        A child that sends a message on which ``on_message`` fails is killed; the last line of the result says why.
        """
        return await asyncio.shield(self._ended) if self._ended is not None else ChildEnd(0, ())

    @property
    def running(self) -> bool:
        """True from the child's start to its end."""
        return self._ended is not None and not self._ended.done()

    def signal(self, number: int) -> None:
        """Send the child a signal. Does nothing when it has ended."""
        if self._process is not None and self.running:
            self._process.send_signal(number)

    async def stop(self, message: Mapping[str, object], deadline_s: float) -> ChildEnd:
        """Ask the child to end by ``message``, and kill it if it still runs after ``deadline_s``."""
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
        self._pidfd = -1
        code = self._process.wait()
        self._read_stderr()
        if self._stderr_fd >= 0:
            loop.remove_reader(self._stderr_fd)
            os.close(self._stderr_fd)
            self._stderr_fd = -1
        self._socket.read()
        self._socket.close()
        if self._stderr_rest:
            self._stderr.append(self._stderr_rest.decode("utf-8", "replace"))
        if self._unheard:
            self._stderr.append(self._unheard)
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
            decoded = [line[-_KEPT_LINE_BYTES:].decode("utf-8", "replace") for line in lines]
            self._stderr.extend(decoded)
            self._on_lines(decoded)
            self._stderr_rest = rest[-_KEPT_LINE_BYTES:]

    def _on_fault(self, error: Exception) -> None:
        """Kill a child whose message could not be handled: ``wait`` reports the error."""
        self._unheard = f"the agent could not handle its message: {type(error).__name__}: {error}"
        LOG.error("%s is killed: %s", self._module, self._unheard, exc_info=error)
        self.signal(signal.SIGKILL)
