"""A link between two ports of loopback delays, resets and cuts, and otherwise carries every byte."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gossip_caffe.chaos.links import LinkProxy, Links, ports_of
from gossip_caffe.system.unix_sockets import socket_path


@asynccontextmanager
async def echoing() -> AsyncIterator[LinkProxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(1000):
                writer.write(piece)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    link = LinkProxy(server.sockets[0].getsockname()[1])
    link.start()
    try:
        yield link
    finally:
        await link.stop()
        server.close()


async def said(link: LinkProxy, what: bytes) -> bytes:
    return await answer_to(what, *await asyncio.open_connection("127.0.0.1", link.port))


async def answer_to(what: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    try:
        writer.write(what)
        writer.write_eof()
        async with asyncio.timeout(30):
            return await reader.read()
    except OSError:
        return b""
    finally:
        writer.close()


async def test_every_byte_is_carried_both_ways() -> None:
    async with echoing() as link:
        what = os.urandom(300_000)
        assert await said(link, what) == what


async def test_what_is_delayed_takes_no_less_time() -> None:
    async with echoing() as link:
        link.delay_s = 0.2
        began = time.monotonic()
        assert await said(link, b"hello") == b"hello"
        assert time.monotonic() - began >= 0.2


async def test_nobody_comes_through_a_link_that_is_cut_until_it_is_whole_again() -> None:
    async with echoing() as link:
        link.is_cut = True
        assert await said(link, b"hello") == b""
        link.is_cut = False
        assert await said(link, b"hello") == b"hello"


async def test_a_reset_ends_what_is_open_and_nothing_else() -> None:
    async with echoing() as link:
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        link.reset()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
        assert await said(link, b"hello") == b"hello"


async def test_a_link_bars_a_process_by_the_ports_of_its_sockets() -> None:
    async with echoing() as link:
        link.rejects = lambda port: port in ports_of(os.getpid())
        assert await said(link, b"hello") == b""
        link.rejects = lambda _: False
        assert await said(link, b"hello") == b"hello"


async def test_a_connection_is_cut_after_so_many_bytes_and_only_that_one() -> None:
    async with echoing() as link:
        assert await said(link, b"hello") == b"hello"
        link.resets_after_bytes = 100_000
        assert await said(link, b"small") == b"small"
        what = os.urandom(300_000)
        assert len(await said(link, what)) < len(what)
        assert link.resets_after_bytes is None
        assert await said(link, what) == what


async def test_who_is_gone_already_may_be_reset_once_more() -> None:
    async with echoing() as link:
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        link.reset()
        await asyncio.sleep(0)  # the sockets are closed then, and the link has not heard of it
        link.reset()
        writer.close()


async def test_a_link_to_an_etcd_on_a_unix_socket_listens_beside_it_and_on_no_port() -> None:
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as name:
        folder = Path(name)

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.read())
            writer.close()

        server = await asyncio.start_unix_server(echo, folder / "etcd:1")
        links = Links()
        words = links.prepare("p0", f"unix:{folder}/etcd:1")
        try:
            address = words[words.index("--etcd") + 1]
            path = socket_path(address)
            assert path is not None
            assert path.parent == folder

            async def said_there(what: bytes) -> bytes:
                return await answer_to(what, *await asyncio.open_unix_connection(path))

            what = os.urandom(300_000)
            assert await said_there(what) == what
            links.isolate("p0", os.getpid())
            assert await said_there(b"hello") == b""
            links.reconnect("p0")
            assert await said_there(b"hello") == b"hello"
        finally:
            await links.stop()
            server.close()
