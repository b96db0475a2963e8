"""Proxies between the peers of a local cluster and to its etcd: they delay, cap, reset and cut connections.

The proxies between peers are on loopback. If etcd listens on a Unix socket, the proxy from a peer to etcd listens on
one beside it, so that a proxy gives no other user access to etcd.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gossip_caffe.background import DetachedTasks, checked_by_owner, owned
from gossip_caffe.cluster.etcd.ports import LOOPBACK, held_port
from gossip_caffe.system.unix_sockets import socket_path, unix_address

PIECE_BYTES = 1 << 16
_LINGER_NOT = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class LinkProxy:
    """A proxy to one port, or to one Unix socket (``onward``).

    ``delay_s`` and ``bytes_per_s`` (0: no limit) apply to all data in that direction. ``is_cut``: every connection is
    refused. ``rejects`` says whether a connection from a port of this machine is refused. ``resets_after_bytes``: the
    first connection that carries this many further bytes is reset, once.
    """

    onward: int | Path
    delay_s: float = 0.0
    bytes_per_s: float = 0.0
    resets_after_bytes: int | None = None
    is_cut: bool = False
    rejects: Callable[[int], bool] = lambda _: False
    port: int = 0
    address: str = ""
    _serving: asyncio.Task[asyncio.Server] | None = None
    _writers: dict[asyncio.StreamWriter, int] = field(default_factory=dict)
    _ways: DetachedTasks = field(default_factory=DetachedTasks)

    def start(self, beside: Path | None = None) -> None:
        """Listen on any free port, or on a Unix socket in the folder ``beside``."""
        if beside is not None:
            path = beside / f"link-{secrets.token_hex(4)}"
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(str(path))
            listening.listen()
            self.address = unix_address(path)
            self._serving = owned(
                asyncio.start_unix_server(self._accept, sock=listening), "a link", checked_by_owner
            )
            return
        listening = socket.create_server((LOOPBACK, 0))
        self.port = int(listening.getsockname()[1])
        self.address = f"{LOOPBACK}:{self.port}"
        self._serving = owned(asyncio.start_server(self._accept, sock=listening), "a link", checked_by_owner)

    async def stop(self) -> None:
        """Stop listening, and reset all connections."""
        if self._serving is not None:
            (await self._serving).close()
        self.reset()
        self._ways.cancel()
        await self._ways.ended()

    def reset(self, whose: Callable[[int], bool] = lambda _: True) -> None:
        """Reset all connections, or those from the ports for which ``whose`` is true."""
        for writer, source in list(self._writers.items()):
            if whose(source):
                _reset(writer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        source = int(peer[1]) if isinstance(peer, tuple) else 0  # a connection by a Unix socket has no port
        if self.is_cut or self.rejects(source):
            writer.transport.abort()
            return
        try:
            onward_reader, onward = await self._open()
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer: source, onward: source}
        ways = [
            self._ways.begin(self._carry_there(reader, onward, writer), f"the way to {self.onward}"),
            self._ways.begin(self._carry(onward_reader, writer), f"the way from {self.onward}"),
        ]
        try:
            await asyncio.wait(ways)
        finally:
            for way in ways:
                way.cancel()
            for end in (writer, onward):
                self._writers.pop(end, None)
                end.close()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.onward, Path):
            return await asyncio.open_unix_connection(self.onward)
        return await asyncio.open_connection(LOOPBACK, self.onward)

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
            onward.transport.abort()  # one of the two sides has gone

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(PIECE_BYTES):
                writer.write(piece)
                await writer.drain()
            writer.write_eof()
        except OSError:
            writer.transport.abort()  # one of the two sides has gone


def _reset(writer: asyncio.StreamWriter) -> None:
    # The socket may be closed already, or be a Unix socket, which needs no option to end at once.
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    writer.transport.abort()


def ports_of(pid: int) -> frozenset[int]:
    """The local TCP ports of a process's sockets; none if it has ended."""
    inodes = set()
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(str(link.readlink()).removeprefix("socket:[").rstrip("]"))
            except OSError:
                continue  # the descriptor was closed meanwhile
        lines = [
            line.split()
            for table in ("tcp", "tcp6")
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        ]
    except OSError:
        return frozenset()
    return frozenset(int(words[1].rpartition(":")[2], 16) for words in lines if words[9] in inodes)


class Links:
    """All proxies of a cluster: one to each peer's port, and one from each peer to etcd."""

    def __init__(self) -> None:
        self._to: dict[str, LinkProxy] = {}
        self._to_etcd: dict[str, LinkProxy] = {}
        self._held: dict[str, socket.socket] = {}
        """The port on which each peer listens, or is about to."""

    def to(self, peer: str) -> LinkProxy:
        """The proxy by which other peers reach a peer."""
        return self._to[peer]

    def prepare(self, peer: str, etcd: str) -> tuple[str, ...]:
        """Make the proxies of a peer that is about to start; returns the arguments of its command for them."""
        if (before := self._held.pop(peer, None)) is not None:
            before.close()
        held = self._held[peer] = held_port()
        listen = int(held.getsockname()[1])
        self._to[peer] = LinkProxy(listen)
        etcds = socket_path(etcd)
        self._to_etcd[peer] = LinkProxy(int(etcd.rpartition(":")[2]) if etcds is None else etcds)
        self._to[peer].start()
        self._to_etcd[peer].start(etcds.parent if etcds is not None else None)
        return (
            *("--etcd", self._to_etcd[peer].address, "--listen", f"{LOOPBACK}:{listen}"),
            *("--advertise", self._to[peer].address),
        )

    def isolate(self, peer: str, pid: int) -> None:
        """Isolate a peer, whose agent is ``pid``, from etcd and from all other peers."""

        def from_it(port: int) -> bool:
            return port in ports_of(pid)

        own = ports_of(pid)
        for link in (self._to[peer], self._to_etcd[peer]):
            link.is_cut = True
            link.reset()
        for name, link in self._to.items():
            if name != peer:
                link.rejects = from_it
                link.reset(own.__contains__)

    def reconnect(self, peer: str) -> None:
        """End the isolation of a peer."""
        for link in (self._to[peer], self._to_etcd[peer]):
            link.is_cut = False
        for link in self._to.values():
            link.rejects = lambda _: False

    async def stop(self) -> None:
        """Stop all proxies."""
        for link in (*self._to.values(), *self._to_etcd.values()):
            await link.stop()
        for held in self._held.values():
            held.close()
