"""Addresses at which no peer answers any more, over real sockets: nothing dials them, and no channel to them stays."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.codecs.message import Message, Refusal
from gossip_caffe.gossip.transport import channels
from gossip_caffe.gossip.transport.grpc_server import PeerServer
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport

DEPARTED = 400
QUIET_S = 3.0
"""gRPC dials a channel without a connection every 0.2 to 2 s."""


def offer() -> Message:
    return Message("x-1", "x", "j", "f", codec="float32", values=1, payload=bytes(4))


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.02)


def connected_to(address: str) -> bool:
    """Whether a TCP connection to that port of this machine stands."""
    port, established = f":{int(address.rpartition(':')[2]):04X}", "01"
    tables = (
        Path("/proc/self/net", name).read_text() for name in ("tcp", "tcp6")
    )  # gRPC has IPv6 sockets for both
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return any(row[2].endswith(port) and row[3] == established for row in rows)


class Dead:
    """Ports of peers that are gone: they count who connects, and hang up at once."""

    def __init__(self) -> None:
        self.connects = 0
        self._servers: list[asyncio.Server] = []

    async def address(self) -> str:
        def came(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connects += 1
            writer.close()

        server = await asyncio.start_server(came, "127.0.0.1", 0)
        self._servers.append(server)
        return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        for server in self._servers:
            server.close()


@asynccontextmanager
async def living(folder: Path) -> AsyncIterator[str]:
    """The address of a peer that answers: it does not train yet, and says so."""
    server = PeerServer("127.0.0.1:0", CheckpointFolder(folder))
    port = await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop()


async def test_nothing_dials_those_at_whose_address_nobody_answered() -> None:
    transport, dead = GrpcTransport(), Dead()
    for address in [await dead.address() for _ in range(DEPARTED)]:
        with pytest.raises(ExchangeFailed):
            await transport.exchange(address, offer(), 30.0)
    assert dead.connects >= DEPARTED
    assert len(transport._channels) == 0
    await asyncio.sleep(0.5)  # what was under way when the channels were closed
    before = dead.connects
    await asyncio.sleep(QUIET_S)
    assert dead.connects == before
    await transport.close()
    dead.close()


async def test_a_channel_to_a_departed_peer_is_closed_and_its_connection_with_it(tmp_path: Path) -> None:
    transport = GrpcTransport()
    async with living(tmp_path / "a") as a, living(tmp_path / "b") as b:
        for address in (a, b):
            assert (await transport.exchange(address, offer(), 30.0)).refusal is Refusal.NOT_TRAINING
            assert connected_to(address)
        gc.disable()  # a connection must not wait for a collector that seldom looks at what is old
        try:
            await transport.forget({b})
            assert len(transport._channels) == 1
            await until(lambda: not connected_to(a))
        finally:
            gc.enable()
        assert connected_to(b)
        assert (await transport.exchange(a, offer(), 30.0)).refusal is Refusal.NOT_TRAINING  # it came back
        await transport.close()
        assert len(transport._channels) == 0


async def test_a_call_that_is_under_way_to_a_departed_peer_is_ended_by_nobody_else(tmp_path: Path) -> None:
    transport = GrpcTransport()
    folder = CheckpointFolder(tmp_path)
    (tmp_path / "c").mkdir()
    content = bytes(range(256)) * (3 << 14)  # longer than what a connection takes before somebody reads
    (tmp_path / "c" / "file").write_bytes(content)
    server = PeerServer("127.0.0.1:0", folder)
    address = f"127.0.0.1:{await server.start()}"
    came = bytearray()
    async for piece in transport.pull(address, "j", "c", "file", 0):
        if not came:
            await transport.forget(())
        came += piece
        await asyncio.sleep(0)
    assert bytes(came) == content
    await until(lambda: len(transport._channels) == 0)
    await transport.close()
    await server.stop()


async def test_channels_are_bounded_and_the_one_that_was_used_longest_ago_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "MOST_CHANNELS", 2)
    transport = GrpcTransport()
    async with (
        living(tmp_path / "a") as a,
        living(tmp_path / "b") as b,
        living(tmp_path / "c") as c,
    ):
        for address in (a, b, a, c):
            await transport.exchange(address, offer(), 30.0)
        assert list(transport._channels._open) == [a, c]
        await transport.close()
