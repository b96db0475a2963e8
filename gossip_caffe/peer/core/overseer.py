"""The messages between a peer and the supervisor that started it.

The peer tells its troubles, and the address that serves its weights; the supervisor asks for a snapshot. Both have a
socket between them, so a message arrives with a full disk and without etcd. Nothing waits for the supervisor, and
nothing fails without one.
"""

from __future__ import annotations

import asyncio
import json
import socket
import zlib
from dataclasses import dataclass
from typing import Any

from gossip_caffe.errors import UsageError
from gossip_caffe.solver.engines.layout import WeightLayout

MOST_BYTES = 1 << 20
"""Largest size of one message, compressed and also uncompressed: a net of ten thousand blobs fits."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A trouble that a person should know of: one line that begins with the peer's name."""

    line: str


@dataclass(frozen=True, slots=True)
class WeightsAt:
    """A peer has weights of this layout, and serves them at this address."""

    address: str
    layout: WeightLayout


@dataclass(frozen=True, slots=True)
class SnapshotWanted:
    """The supervisor asks for a snapshot now."""


Message = Trouble | WeightsAt | SnapshotWanted


def packed(said: Message) -> bytes:
    """Encode one message."""
    record: dict[str, Any]
    match said:
        case Trouble():
            record = {"trouble": said.line}
        case WeightsAt():
            record = {"address": said.address, "layout": said.layout.to_record()}
        case SnapshotWanted():
            record = {"snapshot": "now"}
    return zlib.compress(json.dumps(record).encode(), level=1)


def unpacked(message: bytes) -> Message:
    """Decode one message. Raises ValueError for bytes that are not a message."""
    try:
        unpacking = zlib.decompressobj()
        record = json.loads(unpacking.decompress(message, MOST_BYTES))
    except (zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"not a peer's message: {error}") from error
    match record:
        case {"trouble": str(line)}:
            return Trouble(line)
        case {"address": str(address), "layout": layout}:
            return WeightsAt(address, WeightLayout.from_record(layout))
        case {"snapshot": "now"}:
            return SnapshotWanted()
    raise ValueError("not a peer's message")


class Overseer:
    """The peer's end of the socket to its supervisor. ``newest``: the line of the newest trouble, "" before the first.

    ``descriptor``: of the socket, -1 for a peer without a supervisor. ``snapshots_wanted``: the number of snapshots
    that the supervisor has asked for.
    """

    def __init__(self, descriptor: int = -1) -> None:
        """Take over the socket. Raises UsageError for a descriptor that is not a socket."""
        self.newest = ""
        self.snapshots_wanted = 0
        self._socket: socket.socket | None = None
        if descriptor < 0:
            return
        try:
            self._socket = socket.socket(fileno=descriptor)
            self._socket.setblocking(False)
            self._socket.set_inheritable(False)
        except OSError as error:
            raise UsageError(
                f"--overseer-fd {descriptor} is no socket ({error.strerror})", remedy="leave it out"
            ) from None

    def listen(self) -> None:
        """Receive the supervisor's messages from now on. Call it within the event loop."""
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._read, self._socket)

    def _read(self, supervisor: socket.socket) -> None:
        try:
            message = supervisor.recv(MOST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:  # the supervisor has ended, and this peer ends in a moment
            asyncio.get_running_loop().remove_reader(supervisor)
            return
        try:
            self.snapshots_wanted += isinstance(unpacked(message), SnapshotWanted)
        except ValueError:
            pass  # a message of another version

    def send(self, said: Message) -> None:
        """Tell the supervisor. A message that does not fit into the socket, because it reads nothing, is lost."""
        if isinstance(said, Trouble):
            self.newest = said.line
        if self._socket is None:
            return
        try:
            self._socket.send(packed(said))
        except OSError:
            pass  # the supervisor is frozen; or it has ended, and this peer ends in a moment
