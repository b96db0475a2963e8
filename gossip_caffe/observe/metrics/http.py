"""A small HTTP/1.1 server on asyncio for pages and streams: it answers GET and HEAD, one request a connection.

Any program that reaches the port may send any bytes, so everything is bounded: the connections, the length of a
request, and the time in which it must come and its answer must be taken. While all places are taken, a newcomer takes
the place of the connection that has waited longest without a whole request. So silent connections keep no scrape out.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from gossip_caffe.background import within
from gossip_caffe.clock import Clock
from gossip_caffe.observe.metrics.listening import port_listener, unix_listener
from gossip_caffe.system.unix_sockets import socket_path

MOST_CONNECTIONS = 32
MOST_HEAD_BYTES = 8192
MOST_BODY_BYTES = 1 << 22
REQUEST_S = 10.0
"""The time in which a request must come whole."""
ANSWER_S = 10.0
"""The time in which an answer must be made and taken."""
CLOSE_S = 1.0
MOST_UNTAKEN_BYTES = 1 << 16
"""The part of a stream that waits here for its reader."""
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
_REQUEST = re.compile(rb"(GET|HEAD) (/[!-~]*) HTTP/1\.[01]\r\n")
_METHOD = re.compile(rb"[A-Z]{1,20} [!-~]+ HTTP/1\.[01]\r\n")


@dataclass(frozen=True, slots=True)
class Request:
    """A request. ``path``: without the query. ``headers``: name in lower case → value; of two alike the last one."""

    path: str
    headers: dict[str, str] = field(default_factory=dict)
    is_head: bool = False


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a request. ``headers``: more of them, in text that the caller answers for."""

    status: HTTPStatus
    body: bytes
    content_type: str = TEXT
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def text(cls, status: HTTPStatus, line: str = "") -> Response:
        """One line of text; by default the name of the status."""
        return cls(status, f"{line or status.phrase}\n".encode())


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer that lasts: its pieces are sent as they come, until they end or the caller hangs up.

    A piece that a caller does not take in time ends the stream.
    """

    pieces: AsyncGenerator[bytes, None]
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


Answer = Callable[[Request], Awaitable[Response | Stream]]


def parsed(head: bytes) -> Request | HTTPStatus:
    """The request of these bytes, up to the empty line; or the status that refuses it."""
    first, newline, rest = head.partition(b"\r\n")
    found = _REQUEST.fullmatch(first + newline)
    if found is None:
        is_other = _METHOD.fullmatch(first + newline) is not None
        return HTTPStatus.METHOD_NOT_ALLOWED if is_other else HTTPStatus.BAD_REQUEST
    headers = {}
    for line in rest.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    path = found[2].decode("ascii").partition("?")[0]
    return Request(path, headers, found[1] == b"HEAD")


def is_foreign(host: str) -> bool:
    """Whether a request to a loopback address names another host: a web page then has let its own name lead here."""
    name = host.strip() if host.endswith("]") else host.rpartition(":")[0] or host
    try:
        return not ipaddress.ip_address(name.strip("[] ")).is_loopback
    except ValueError:
        return name.lower() not in {"localhost", ""}


def is_loopback(address: str) -> bool:
    """Whether "host:port" names this machine's own loopback: "localhost", or an IP address of loopback."""
    return not is_foreign(address)


async def fetched(path: Path, page: str, accept: str) -> Response:
    """The answer of a server at a Unix socket of this machine. ``page``: the path that is asked for.

    Raises OSError, EOFError or ValueError when there is no whole answer.
    """
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        asked = re.sub(r"[^ -~]", "", accept)
        writer.write(f"GET {page} HTTP/1.1\r\nHost: localhost\r\nAccept: {asked}\r\n\r\n".encode("ascii"))
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = dict(line.partition(": ")[::2] for line in head.split("\r\n")[1:])
        length = int(lines["Content-Length"])
        if length > MOST_BODY_BYTES:
            raise ValueError(f"an answer of {length:,} bytes")
        status = HTTPStatus(int(head.split(" ", 2)[1]))
        return Response(status, await reader.readexactly(length), lines["Content-Type"])
    except (KeyError, asyncio.LimitOverrunError) as error:
        raise ValueError("an answer that is none of a peer") from error
    finally:
        writer.close()


class HttpServer:
    """Answers requests by ``answer``, until ``stop``. ``option`` is the name of the option that gives its address."""

    def __init__(self, answer: Answer, clock: Clock, option: str) -> None:
        self._answer = answer
        self._clock = clock
        self._option = option
        self._server: asyncio.Server | None = None
        self._waiting: dict[asyncio.StreamWriter, None] = {}
        self._open: dict[asyncio.StreamWriter, None] = {}
        self._is_loopback = False
        self._path: Path | None = None

    async def start(self, listen: str) -> int:
        """Bind "host:port" or "unix:PATH" and answer from now on; returns the port, 0 for a Unix socket.

        Raises Conflict when the port is in use, UsageError when it is no address of this machine, EnvironmentProblem
        when the Unix socket cannot be made.
        """
        path = self._path = socket_path(listen)
        if path is not None:
            listener = unix_listener(path)
            self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=MOST_HEAD_BYTES)
            return 0
        listener = await port_listener(listen, self._option)
        host, port = listener.getsockname()[:2]
        self._is_loopback = ipaddress.ip_address(host.partition("%")[0]).is_loopback
        self._server = await asyncio.start_server(self._serve, sock=listener, limit=MOST_HEAD_BYTES)
        return int(port)

    async def stop(self) -> None:
        """End all connections, and close."""
        if self._server is None:
            return
        self._server.close()
        for writer in tuple(self._open):
            writer.transport.abort()
        try:
            async with self._clock.timeout(CLOSE_S):
                while self._open:
                    await self._clock.sleep(0.01)
        except TimeoutError:
            pass  # an answer is still being made: its connection is closed already
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MOST_CONNECTIONS:
            if not self._waiting:
                writer.transport.abort()
                return
            oldest = next(iter(self._waiting))
            self._forget(oldest)
            oldest.transport.abort()
        self._open[writer] = self._waiting[writer] = None
        try:
            request = await self._request(reader)
            self._waiting.pop(writer, None)
            if request is None:
                return
            async with self._clock.timeout(ANSWER_S):
                stream = await self._reply(request, writer)
            if stream is not None:
                await self._send(stream, reader, writer)
        except (TimeoutError, ConnectionError):
            writer.transport.abort()
        finally:
            self._forget(writer)
            writer.close()

    def _forget(self, writer: asyncio.StreamWriter) -> None:
        self._waiting.pop(writer, None)
        self._open.pop(writer, None)

    async def _request(self, reader: asyncio.StreamReader) -> Request | HTTPStatus | None:
        """The request of a connection, or the status that refuses it; None when the caller has hung up.

        Raises TimeoutError or ConnectionError.
        """
        try:
            async with self._clock.timeout(REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        except asyncio.LimitOverrunError:
            return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        return parsed(head)

    async def _reply(self, request: Request | HTTPStatus, writer: asyncio.StreamWriter) -> Stream | None:
        """Send the answer, or the head of a stream, which is returned."""
        response: Response | Stream
        if isinstance(request, HTTPStatus):
            response = Response.text(request)
        elif self._is_loopback and is_foreign(request.headers.get("host", "")):
            response = Response.text(HTTPStatus.MISDIRECTED_REQUEST)
        else:
            response = await self._answer(request)
        is_head = isinstance(request, Request) and request.is_head
        writer.write(_head_of(response))
        if isinstance(response, Stream) and not is_head:
            await writer.drain()
            return response
        if isinstance(response, Response) and not is_head:
            writer.write(response.body)
        writer.close()
        await writer.wait_closed()  # a caller that does not read the answer meets the deadline
        return None

    async def _send(self, stream: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send the pieces until they end or the caller hangs up. Raises TimeoutError or ConnectionError."""
        writer.transport.set_write_buffer_limits(MOST_UNTAKEN_BYTES)
        foreseen = (TimeoutError, ConnectionError)
        async with within(reader.read(1), self._pass_on(stream, writer), foreseen=foreseen) as (
            gone,
            sending,
        ):
            await asyncio.wait((gone, sending), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()

    async def _pass_on(self, stream: Stream, writer: asyncio.StreamWriter) -> None:
        async with aclosing(stream.pieces) as pieces:
            async for piece in pieces:
                writer.write(piece)
                async with self._clock.timeout(ANSWER_S):
                    await writer.drain()


def _head_of(response: Response | Stream) -> bytes:
    status = response.status if isinstance(response, Response) else HTTPStatus.OK
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", f"Content-Type: {response.content_type}"]
    if isinstance(response, Response):
        lines.append(f"Content-Length: {len(response.body)}")
    lines += ["Connection: close", "Cache-Control: no-store", "X-Content-Type-Options: nosniff"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
