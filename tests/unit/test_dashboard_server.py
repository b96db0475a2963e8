"""The server of the page: what it answers, whom it refuses, and how it tells of changes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gossip_caffe.clock import SystemClock
from gossip_caffe.observe.dashboard import server as server_module
from gossip_caffe.observe.dashboard.cards import CARDS
from gossip_caffe.observe.dashboard.server import MOST_READERS, DashboardServer
from gossip_caffe.observe.dashboard.source import News
from gossip_caffe.observe.metrics import http as http_module
from tests.unit.test_dashboard_feed import HOSTILE
from tests.unit.test_report import LOGS, STARTED, at, read

DEADLINE_S = 30.0


class Growing:
    """A run whose next events a test adds."""

    def __init__(self) -> None:
        self.coming = [event for log in LOGS.values() for event in log]
        self.running = frozenset({"p10"})

    def look(self) -> News:
        events, self.coming = self.coming, []
        return News(events, (), self.running, 30.0)


@pytest.fixture
def source() -> Growing:
    return Growing()


@pytest.fixture
async def server(source: Growing) -> AsyncIterator[DashboardServer]:
    made = DashboardServer(source, SystemClock(), "ab", frozenset({"Host-One"}))
    yield made
    await made.stop()


async def asked(port: int, path: str = "/", **headers: str) -> tuple[int, dict[str, str], str]:
    """The answer to a request: status, headers, body."""
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        lines = {
            "host": f"127.0.0.1:{port}",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        told = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"GET {path} HTTP/1.1\r\n{told}\r\n".encode())
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
    first, *rest = head.split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in rest), body


@contextlib.asynccontextmanager
async def listening(port: int, last: str = "") -> AsyncIterator[asyncio.StreamReader]:
    """A stream of events, after its head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    told = f"Last-Event-ID: {last}\r\n" if last else ""
    writer.write(f"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n{told}\r\n".encode())
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        yield reader
    finally:
        writer.close()


async def next_of(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    """The next event: its id, and the parts in it."""
    async with asyncio.timeout(DEADLINE_S):
        lines = dict(
            line.split(": ", 1) for line in (await reader.readuntil(b"\n\n")).decode().strip().split("\n")
        )
    return lines["id"], json.loads(lines["data"])


async def test_the_page_is_whole_and_names_no_other_place(server: DashboardServer) -> None:
    port = await server.start("127.0.0.1:0")
    status, headers, body = await asked(port)
    assert status == 200
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert headers["cache-control"] == "no-store"
    reader = read(re.sub(r"<(meta|link)([^>]*)>", r"<\1\2/>", body))
    for tag, attributes in reader.seen:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (
            tag,
            attributes,
        )
        for name in ("src", "href"):
            assert re.fullmatch(r"/[\w.]+|#[\w-]+|", attributes.get(name, "")), attributes
    parts = {attributes["data-part"] for _, attributes in reader.seen if "data-part" in attributes}
    assert {card.name for card in CARDS} <= parts
    assert body.count('role="img"') == len(CARDS)
    assert body.count("<script") == 1
    for path, kind in (
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/icon.svg", "image/svg+xml"),
    ):
        status, headers, text = await asked(port, path)
        assert (status, headers["content-type"].partition(";")[0]) == (200, kind)
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", text)
    assert (await asked(port, "/else"))[0] == 404


async def test_a_hostile_name_is_no_markup_in_the_page(source: Growing, server: DashboardServer) -> None:
    source.coming = [at(10.0, HOSTILE, "started", **{**STARTED, "job": HOSTILE})]
    _, _, body = await asked(await server.start("127.0.0.1:0"))
    assert "<img" not in body
    assert "\x1b" not in body
    assert "&lt;img" in body


async def test_a_change_is_told_with_what_changed_and_nothing_else(
    source: Growing, server: DashboardServer
) -> None:
    port = await server.start("127.0.0.1:0")
    async with listening(port) as reader:
        first, parts = await next_of(reader)
        assert first == "ab-1"
        assert {"peers", "loss-table", "status", "news"} <= set(parts)
        source.running = frozenset()
        await server._look()
        second, parts = await next_of(reader)
        assert second == "ab-2"
        assert "p10 was killed" in parts["news"]
        assert "rate" not in parts
        await server._look()
    async with listening(port, "ab-1") as reader:
        assert (await next_of(reader))[1] == parts
    async with listening(port, "ff-1") as reader:
        assert "rate" in (await next_of(reader))[1]


async def test_a_reader_hears_a_beat_when_nothing_changes(
    server: DashboardServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "BEAT_S", 0.02)
    port = await server.start("127.0.0.1:0")
    async with listening(port) as reader, asyncio.timeout(DEADLINE_S):
        await next_of(reader)
        assert await reader.readuntil(b"\n\n") == b"event: beat\ndata: \n\n"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost:1"}, 200),
        ({"host": "[::1]:1"}, 200),
        ({"host": "evil.example"}, 421),
        ({"host": "host-one"}, 421),  # it listens on loopback, where nobody calls it by that name
        ({"sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
    ],
)
async def test_pages_of_other_sites_get_nothing(
    server: DashboardServer, headers: dict[str, str], status: int
) -> None:
    port = await server.start("127.0.0.1:0")
    assert (await asked(port, "/page.js", **headers))[0] == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("10.0.0.5:80", 200),
        ("HOST-ONE:80", 200),
        ("localhost", 200),
        ("evil.example", 403),
        ("host-one.evil", 403),
    ],
)
async def test_beyond_loopback_it_answers_to_addresses_and_its_own_names(
    server: DashboardServer, host: str, status: int
) -> None:
    port = await server.start("0.0.0.0:0")
    assert (await asked(port, host=host))[0] == status


async def test_readers_are_bounded_and_one_that_hangs_up_leaves_its_place(server: DashboardServer) -> None:
    port = await server.start("127.0.0.1:0")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(MOST_READERS):
            await next_of(await stack.enter_async_context(listening(port)))
        assert (await asked(port, "/events"))[0] == 503
        assert (await asked(port))[0] == 200
    async with asyncio.timeout(DEADLINE_S):
        while server._readers:
            await asyncio.sleep(0.01)
    async with listening(port) as reader:
        assert (await next_of(reader))[0] == "ab-1"


async def test_a_reader_that_takes_nothing_is_dropped(
    server: DashboardServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = await server.start("127.0.0.1:0")
    async with listening(port) as slow:
        await next_of(slow)
        slow._transport.pause_reading()  # type: ignore[attr-defined]
        monkeypatch.setattr(http_module, "ANSWER_S", 0.2)
        server._tell(
            server._feed.advanced({"peers": "x" * (1 << 25)})
        )  # more than the buffers of a socket hold
        async with asyncio.timeout(DEADLINE_S):
            while server._readers:
                await asyncio.sleep(0.01)
    monkeypatch.undo()
    server._tell(server._feed.advanced({"peers": "y"}))
    async with listening(port) as reader:
        assert (await next_of(reader))[1]["peers"] == "y"


async def test_a_server_that_stops_ends_its_readers(server: DashboardServer) -> None:
    port = await server.start("127.0.0.1:0")
    async with listening(port) as reader:
        await next_of(reader)
        async with asyncio.timeout(DEADLINE_S):
            await server.stop()
            with contextlib.suppress(ConnectionError):
                assert not await reader.read()
    assert server._readers == 0


async def test_a_look_that_fails_ends_the_following(tmp_path: Path) -> None:
    class Broken:
        def look(self) -> News:
            raise OSError("the disk is gone")

    server = DashboardServer(Broken(), SystemClock(), "ab")
    with pytest.raises(OSError, match="the disk is gone"):
        await server.follow()
