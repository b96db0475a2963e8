"""The supervisor's end of the sockets to its peers; ``peer.core.overseer`` is the other end."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass

from gossip_caffe.peer.core.overseer import MOST_BYTES, Message, Trouble, WeightsAt, packed, unpacked

KEPT = 20
"""The number of troubles that a supervisor keeps. Troubles that differ only in names and numbers count as one."""
_OF_A_CLUSTER = {
    "give another --run-dir": "set $GOSSIP_CAFFE_STATE to another folder",
    "give a --run-dir": "set $GOSSIP_CAFFE_STATE to a folder",
}
_PARTICULAR = re.compile(r"\S*[\d/]\S*")


def in_words_of_a_cluster(line: str) -> str:
    """A peer's line as its supervisor repeats it: it is the cluster that gave its peers their --run-dir."""
    for words, instead in _OF_A_CLUSTER.items():
        line = line.replace(words, instead)
    return line


class PeerMessages:
    """The socket to one peer. ``weights_at``: the place of the peer's weights; None before it has weights.

    ``peer_socket``: the socket that the peer's process inherits. ``on_trouble`` is called with each of its warnings.
    """

    def __init__(self, on_trouble: Callable[[str], None]) -> None:
        self.weights_at: WeightsAt | None = None
        self._on_trouble = on_trouble
        self._socket, self.peer_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)

    def begin(self) -> None:
        """Start to receive, once the peer's process has its socket. Call it within the event loop."""
        self.peer_socket.close()
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def send(self, said: Message) -> None:
        """Send the peer a message. A message that it cannot take any more is lost."""
        try:
            self._socket.send(packed(said))
        except OSError:
            pass

    def close(self) -> None:
        """Receive the last messages, and close both sockets."""
        self._read()
        self.peer_socket.close()
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()

    def _read(self) -> None:
        while self._socket.fileno() >= 0:
            try:
                message = self._socket.recv(MOST_BYTES)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                asyncio.get_running_loop().remove_reader(self._socket)
                self._socket.close()
                return
            try:
                said = unpacked(message)
            except ValueError:
                continue  # a message of another version
            if isinstance(said, Trouble):
                self._on_trouble(in_words_of_a_cluster(said.line))
            elif isinstance(said, WeightsAt):
                self.weights_at = said


@dataclass(slots=True)
class NotedTrouble:
    """A trouble: its newest line, the number of reports, and the time of the last one (the supervisor's clock, s)."""

    line: str
    count: int
    last_s: float


class Troubles:
    """The troubles that were reported, one for each kind: reports of one kind differ only in names and numbers."""

    def __init__(self) -> None:
        self._told: dict[str, NotedTrouble] = {}

    def note(self, line: str, now_s: float) -> bool:
        """Note a report. Returns True if it is the first of its kind."""
        kind = kind_of(line)
        before = self._told.pop(kind, None)
        self._told[kind] = NotedTrouble(line, 1 + (before.count if before else 0), now_s)
        while len(self._told) > KEPT:
            del self._told[next(iter(self._told))]
        return before is None

    @property
    def told(self) -> list[NotedTrouble]:
        """The troubles, the newest last."""
        return list(self._told.values())


def kind_of(line: str) -> str:
    """Return a line's kind: the line without the peer's name, numbers and paths."""
    return _PARTICULAR.sub("#", line.partition(": ")[2] or line)
