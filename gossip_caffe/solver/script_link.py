"""The agent's end of the socket to a user's script that is its peer's solver (``script_side`` is the other end).

A solver process lives once. A script is asked to be one solver after the other: each time an agent would start a solver
process, a *life* begins, with the same messages (``child``), and ends with {"ended": exit code}. Every message has the
number of its life, so an answer that comes late is not taken for one of the next life.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gossip_caffe.errors import UsageError
from gossip_caffe.system.children import ChildEnd
from gossip_caffe.system.messages import MessageSocket

OnMessage = Callable[[dict[str, Any]], None]
_GONE = ChildEnd(-signal.SIGKILL, ())


class ScriptLife:
    """One solver that a script is: it has the methods of ``system.children.Child``."""

    def __init__(self, link: ScriptLink, on_message: OnMessage) -> None:
        self._link = link
        self._on_message = on_message
        self._number = 0
        self._ended: asyncio.Future[ChildEnd] | None = None

    @property
    def pid(self) -> int:
        """The script's process id."""
        return self._link.pid

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Begin the life. Call it within the event loop."""
        del environment  # the script has its own
        self._ended = asyncio.get_running_loop().create_future()
        self._number = self._link.begin(self._heard, self._gone)

    def send(self, message: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        """Send a message. Never blocks. Raises OSError, and sends nothing, when no descriptor is left."""
        if self._ended is not None and not self._ended.done():
            self._link.send({**message, "life": self._number}, fds)

    async def wait(self) -> ChildEnd:
        """Wait for the life's end. One that has not begun has exit code 0."""
        return await asyncio.shield(self._ended) if self._ended is not None else ChildEnd(0, ())

    async def stop(self, message: Mapping[str, object], deadline_s: float) -> ChildEnd:
        """Ask the script to end the life by ``message``, and wait until it has: between two of its steps.

        There is no deadline: a script that is in a step, or does something else, must not be killed for that.
        """
        del deadline_s
        self.send(message)
        return await self.wait()

    def _heard(self, message: dict[str, Any]) -> None:
        if "ended" in message:
            self._end(ChildEnd(int(message["ended"]), ()))
        else:
            self._on_message(message)

    def _gone(self) -> None:
        self._end(_GONE)

    def _end(self, end: ChildEnd) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(end)


class ScriptLink:
    """The socket to the script. ``on_leave`` is called when the script asks to leave, with the reason."""

    def __init__(self, descriptor: int, on_leave: Callable[[str], None] = lambda _: None) -> None:
        """Take over the socket, within the event loop. Raises UsageError for a descriptor that is no socket."""
        try:
            end = socket.socket(fileno=descriptor)
            end.set_inheritable(False)
        except OSError as error:
            raise UsageError(
                f"--script-fd {descriptor} is no socket ({error.strerror})", remedy="leave it out"
            ) from None
        self.pid = os.getppid()
        self._on_leave = on_leave
        self._life = 0
        self._heard: OnMessage = lambda _: None
        self._gone: Callable[[], None] = lambda: None
        self._is_gone = False
        self._socket = MessageSocket(end, self._read, self._faulty, self._closed)

    def begin(self, heard: OnMessage, gone: Callable[[], None]) -> int:
        """Begin the next life. Returns its number. ``gone`` is called when the script's process has ended."""
        self._life += 1
        self._heard, self._gone = heard, gone
        if self._is_gone:
            gone()
        return self._life

    def send(self, message: Mapping[str, object], fds: Sequence[int]) -> None:
        """Send a message to the script."""
        self._socket.send(message, fds)

    def life(self, on_message: OnMessage) -> ScriptLife:
        """Make a life, which ``start`` begins."""
        return ScriptLife(self, on_message)

    def close(self) -> None:
        """Close the socket: the script is this peer no more."""
        self._socket.close()

    def _read(self, message: dict[str, Any]) -> None:
        if "leave" in message:
            self._on_leave(str(message["leave"]))
        elif message.pop("life", 0) == self._life:
            self._heard(message)

    def _faulty(self, error: Exception) -> None:
        del error
        self._closed()

    def _closed(self) -> None:
        self._is_gone = True
        self._gone()
