"""Proxies on loopback between the peers of a local cluster and to its etcd: they delay, cap, reset and cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gossip_caffe.cluster.ports import LOOPBACK, held_port

PIECE_BYTES = 1 << 16
_LINGER_NOT = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Link:
    """The way to one port. ``delay_s`` and ``bytes_per_s`` (0: as many as come) hold for all that goes there.

    ``is_cut``: nobody comes through; ``bars``: whether a connection from a port of this machine is not let through.
    ``resets_after_bytes``: the connection on which so many have gone there from now on is reset, once.
    """

    onward: int
    delay_s: float = 0.0
    bytes_per_s: float = 0.0
    resets_after_bytes: int | None = None
    is_cut: bool = False
    bars: Callable[[int], bool] = lambda _: False
    port: int = 0
    _serving: asyncio.Task[asyncio.Server] | None = None
    _writers: dict[asyncio.StreamWriter, int] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def start(self) -> None:
        """Listen on any free port."""
        listening = socket.create_server((LOOPBACK, 0))
        self.port = int(listening.getsockname()[1])
        self._serving = asyncio.ensure_future(asyncio.start_server(self._meet, sock=listening))

    async def stop(self) -> None:
        """Listen no more, and reset everything."""
        if self._serving is not None:
            (await self._serving).close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def reset(self, whose: Callable[[int], bool] = lambda _: True) -> None:
        """Reset all connections, or those from ports of which ``whose`` is true."""
        for writer, source in list(self._writers.items()):
            if whose(source):
                _reset(writer)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = int(writer.get_extra_info("peername")[1])
        if self.is_cut or self.bars(source):
            writer.transport.abort()
            return
        try:
            onward_reader, onward = await asyncio.open_connection(LOOPBACK, self.onward)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer: source, onward: source}
        ways = (self._carry_there(reader, onward, writer), self._carry(onward_reader, writer))
        tasks = [asyncio.ensure_future(way) for way in ways]
        self._tasks.update(tasks)
        try:
            await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
            self._tasks.difference_update(tasks)
            for end in (writer, onward):
                self._writers.pop(end, None)
                end.close()

    async def _carry_there(
        self, reader: asyncio.StreamReader, onward: asyncio.StreamWriter, back: asyncio.StreamWriter
    ) -> None:
        gone = 0
        try:
            while piece := await reader.read(PIECE_BYTES):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self.bytes_per_s:
                    await asyncio.sleep(len(piece) / self.bytes_per_s)
                gone = gone + len(piece) if self.resets_after_bytes is not None else 0
                if (most := self.resets_after_bytes) is not None and gone > most:
                    self.resets_after_bytes = None
                    onward.write(piece[: len(piece) - (gone - most)])
                    await onward.drain()
                    _reset(onward)
                    _reset(back)
                    return
                onward.write(piece)
                await onward.drain()
            onward.write_eof()
        except OSError:
            onward.transport.abort()  # either side is gone

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(PIECE_BYTES):
                writer.write(piece)
                await writer.drain()
            writer.write_eof()
        except OSError:
            writer.transport.abort()  # either side is gone


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    writer.transport.abort()


def ports_of(pid: int) -> frozenset[int]:
    """The local TCP ports of a process's sockets; none when it is gone."""
    inodes = set()
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(str(link.readlink()).removeprefix("socket:[").rstrip("]"))
            except OSError:
                continue  # closed meanwhile
        lines = [
            line.split()
            for table in ("tcp", "tcp6")
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        ]
    except OSError:
        return frozenset()
    return frozenset(int(words[1].rpartition(":")[2], 16) for words in lines if words[9] in inodes)


class Links:
    """All links of a cluster: one to each peer's port, and one to etcd for each peer."""

    def __init__(self) -> None:
        self._to: dict[str, Link] = {}
        self._to_etcd: dict[str, Link] = {}
        self._held: dict[str, socket.socket] = {}
        """The port on which each peer listens, or is about to."""

    def to(self, peer: str) -> Link:
        """The link on which others reach a peer."""
        return self._to[peer]

    def prepare(self, peer: str, etcd: str) -> tuple[str, ...]:
        """Make the links of a peer that is about to start; returns the words that its command needs for them."""
        if (before := self._held.pop(peer, None)) is not None:
            before.close()
        held = self._held[peer] = held_port()
        listen = int(held.getsockname()[1])
        self._to[peer] = Link(listen)
        self._to_etcd[peer] = Link(int(etcd.rpartition(":")[2]))
        for link in (self._to[peer], self._to_etcd[peer]):
            link.start()
        return (
            *("--etcd", f"{LOOPBACK}:{self._to_etcd[peer].port}", "--listen", f"{LOOPBACK}:{listen}"),
            *("--advertise", f"{LOOPBACK}:{self._to[peer].port}"),
        )

    def part(self, peer: str, pid: int) -> None:
        """From now on this peer, whose agent is ``pid``, reaches nobody, and nobody reaches it."""

        def from_it(port: int) -> bool:
            return port in ports_of(pid)

        own = ports_of(pid)
        for link in (self._to[peer], self._to_etcd[peer]):
            link.is_cut = True
            link.reset()
        for name, link in self._to.items():
            if name != peer:
                link.bars = from_it
                link.reset(own.__contains__)

    def join(self, peer: str) -> None:
        """The peer is one of them again."""
        for link in (self._to[peer], self._to_etcd[peer]):
            link.is_cut = False
        for link in self._to.values():
            link.bars = lambda _: False

    async def stop(self) -> None:
        """End them all."""
        for link in (*self._to.values(), *self._to_etcd.values()):
            await link.stop()
        for held in self._held.values():
            held.close()
