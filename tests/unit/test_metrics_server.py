"""The HTTP server of metrics: it answers what it should, and no bytes of a caller harm it."""

from __future__ import annotations

import asyncio
import contextlib
import stat
import threading
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.clock import SystemClock
from gossip_caffe.errors import Conflict, EnvironmentProblem, UsageError
from gossip_caffe.observe.metrics import http as http_module
from gossip_caffe.observe.metrics.figures import Figures
from gossip_caffe.observe.metrics.http import (
    MOST_CONNECTIONS,
    MOST_HEAD_BYTES,
    HttpServer,
    Request,
    Response,
    is_foreign,
    parsed,
)
from gossip_caffe.observe.metrics.server import STILL_S, Beat, DiskSpace, MetricsServer
from gossip_caffe.observe.metrics.tally import Tally
from tests.fake_clock import FakeClock

DEADLINE_S = 30.0
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9100\r\nAccept: */*\r\n\r\n"


def figures(state: str = "training") -> Figures:
    return Figures(job="digits", version="1", device="cpu", state=state, budget_samples=10)


async def said_to(port: int, sent: bytes) -> bytes:
    """All that the server answers to these bytes."""
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(sent)
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


async def status_of(port: int, path: str, host: str = "127.0.0.1") -> int:
    answer = await said_to(port, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    return int(answer.split()[1])


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[MetricsServer]:
    made = MetricsServer(Tally(), SystemClock(), tmp_path)
    yield made
    await made.stop()


async def test_before_a_peer_has_figures_it_is_alive_and_not_ready(server: MetricsServer) -> None:
    port = await server.start("127.0.0.1:0")
    assert await status_of(port, "/healthz") == 200
    assert await status_of(port, "/readyz") == 503
    assert await status_of(port, "/metrics") == 503


@pytest.mark.parametrize(("state", "ready"), [("joining", 503), ("training", 200), ("draining", 503)])
async def test_a_peer_is_ready_while_it_trains(server: MetricsServer, state: str, ready: int) -> None:
    port = await server.start("127.0.0.1:0")
    server.serve(lambda: figures(state))
    assert await status_of(port, "/readyz") == ready
    assert await status_of(port, "/metrics?x=1") == 200
    assert await status_of(port, "/else") == 404


async def test_an_answer_is_whole_and_a_head_has_no_body(server: MetricsServer) -> None:
    port = await server.start("127.0.0.1:0")
    server.serve(figures)
    head, _, body = (await said_to(port, SCRAPE)).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"Connection: close" in head
    assert body.startswith(b"# HELP gossip_caffe_build_info")
    assert (await said_to(port, SCRAPE.replace(b"GET", b"HEAD"))).endswith(b"\r\n\r\n")


async def test_a_loop_that_stands_still_is_not_healthy() -> None:
    clock = FakeClock()
    beat = Beat(clock)
    running = asyncio.create_task(beat.run())
    await clock.advance(3.0)
    assert beat.age_s < 1.0
    assert beat.lag_s == 0.0
    clock._now += STILL_S  # the time goes on, and the loop does not
    assert beat.age_s >= STILL_S
    assert beat.lag_s >= STILL_S - 1.0
    running.cancel()


HOSTILE = [
    b"",
    b"\r\n\r\n",
    b"\0" * 100 + b"\r\n\r\n",
    b"GET /metrics\r\n\r\n",
    b"GET /metrics HTTP/2.0\r\n\r\n",
    b"GET  /metrics HTTP/1.1\r\n\r\n",
    b"GET http://evil/metrics HTTP/1.1\r\n\r\n",
    b"GET /met\x00rics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 10_000,
    b"A" * (1 << 20),
]


@pytest.mark.parametrize("sent", HOSTILE, ids=lambda sent: repr(sent[:40]))
async def test_hostile_bytes_get_no_figures_and_harm_nothing(
    server: MetricsServer, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "REQUEST_S", 0.2)
    port = await server.start("127.0.0.1:0")
    server.serve(figures)
    answer = await said_to(port, sent)
    assert b"gossip_caffe_" not in answer
    assert not answer.startswith(b"HTTP/1.1 200")
    assert (await said_to(port, SCRAPE)).startswith(b"HTTP/1.1 200")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_a_refusal(head: bytes) -> None:
    found = parsed(head)
    assert isinstance(found, Request) or found in {HTTPStatus.BAD_REQUEST, HTTPStatus.METHOD_NOT_ALLOWED}


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="?"), max_size=50),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=50),
)
def test_a_request_is_read_as_it_was_written(path: str, accept: str) -> None:
    found = parsed(f"GET /{path}?q HTTP/1.1\r\naCCept:  {accept} \r\n\r\n".encode())
    assert found == Request(f"/{path}", {"accept": accept})


@pytest.mark.parametrize(
    ("host", "foreign"),
    [
        ("127.0.0.1:9100", False),
        ("127.0.0.1", False),
        ("localhost:9100", False),
        ("LOCALHOST", False),
        ("[::1]:9100", False),
        ("[::1]", False),
        ("", False),
        ("evil.example", True),
        ("evil.example:9100", True),
        ("127.0.0.1.evil.example:80", True),
        ("10.0.0.1:80", True),
        ("\x00", True),
    ],
)
def test_a_web_page_whose_name_leads_to_loopback_is_told_apart(host: str, foreign: bool) -> None:
    assert is_foreign(host) is foreign


async def test_silent_connections_keep_no_scrape_out(server: MetricsServer) -> None:
    port = await server.start("127.0.0.1:0")
    server.serve(figures)
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3 * MOST_CONNECTIONS)]
    try:
        for _ in range(3):
            assert (await said_to(port, SCRAPE)).startswith(b"HTTP/1.1 200")
    finally:
        for _, writer in held:
            writer.close()


async def test_a_request_that_does_not_come_whole_in_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "REQUEST_S", 0.05)

    async def answer(request: Request) -> Response:
        raise AssertionError(f"no request came: {request}")

    server = HttpServer(answer, SystemClock(), "--listen")
    port = await server.start("127.0.0.1:0")
    assert await said_to(port, b"GET / HTTP/1.1\r\n") == b""
    await server.stop()


async def test_an_answer_that_is_not_made_or_taken_in_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "ANSWER_S", 0.1)
    large = b"x" * (1 << 26)  # more than any socket's buffers hold

    async def answer(request: Request) -> Response:
        if request.path == "/never":
            await asyncio.Event().wait()
        return Response(HTTPStatus.OK, large)

    server = HttpServer(answer, SystemClock(), "--listen")
    port = await server.start("127.0.0.1:0")
    assert await said_to(port, b"GET /never HTTP/1.1\r\n\r\n") == b""
    _, silent = await asyncio.open_connection("127.0.0.1", port, limit=1)
    silent.write(b"GET / HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(DEADLINE_S):
        while not server._open:
            await asyncio.sleep(0.01)
        while server._open:
            await asyncio.sleep(0.01)
    silent.transport.abort()
    await server.stop()


async def test_a_caller_that_is_gone_before_its_answer_is_no_error(
    server: MetricsServer, caplog: pytest.LogCaptureFixture
) -> None:
    port = await server.start("127.0.0.1:0")
    server.serve(figures)
    for _ in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(SCRAPE)
        writer.transport.abort()
    assert await status_of(port, "/metrics") == 200
    assert not caplog.records


async def test_a_port_in_use_and_an_address_of_another_machine_are_one_line(tmp_path: Path) -> None:
    first, second = (MetricsServer(Tally(), SystemClock(), tmp_path) for _ in range(2))
    port = await first.start("127.0.0.1:0")
    with pytest.raises(Conflict, match="the port is in use"):
        await second.start(f"127.0.0.1:{port}")
    with pytest.raises(UsageError, match=r"cannot listen on 192\.0\.2\.1:0"):
        await second.start("192.0.2.1:0")
    with pytest.raises(UsageError, match=r"cannot listen on no-such-host\.invalid:0"):
        await second.start("no-such-host.invalid:0")
    with pytest.raises(EnvironmentProblem, match="Unix socket"):
        await second.start(f"unix:{tmp_path}/none/peer-1-00000000")
    await second.stop()
    await first.stop()


async def test_a_unix_socket_is_its_users_alone_and_goes_with_the_server(
    server: MetricsServer, tmp_path: Path
) -> None:
    path = tmp_path / "peer-1-00000000"
    assert await server.start(f"unix:{path}") == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    await server.stop()
    assert not path.exists()


async def test_a_server_that_stops_ends_its_connections(server: MetricsServer) -> None:
    port = await server.start("127.0.0.1:0")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(DEADLINE_S):
        while not server._http._open:
            await asyncio.sleep(0.01)
        await server.stop()
        with contextlib.suppress(ConnectionError):
            assert not await reader.read(1)
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


def test_a_head_is_bounded() -> None:
    assert MOST_HEAD_BYTES < 1 << 16


async def test_the_space_on_a_disk_is_read_by_a_thread_and_not_again_while_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, release = [], threading.Event()

    def usage(folder: Path) -> object:
        reads.append(folder)
        assert release.wait(DEADLINE_S)
        raise OSError("gone")

    monkeypatch.setattr("gossip_caffe.observe.metrics.server.shutil.disk_usage", usage)
    clock = FakeClock()
    space = DiskSpace(tmp_path, clock)
    for _ in range(5):
        space.look()
        await clock.advance(100.0)
    release.set()
    assert reads == [tmp_path]
    assert space.free_bytes is None
