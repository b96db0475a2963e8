"""A small HTTP/1.1 server on asyncio for pages of a few kilobytes: it answers GET and HEAD, one request a connection.

Any program that reaches the port may send any bytes, so everything is bounded: the connections, the length of a
request, and the time in which it must come and its answer must be taken. While all places are taken, a newcomer takes
the place of the connection that has waited longest without a whole request. So silent connections keep no scrape out.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from gossip_caffe.addresses import split_address
from gossip_caffe.clock import Clock
from gossip_caffe.errors import Conflict, EnvironmentProblem, UsageError
from gossip_caffe.system.unix_sockets import socket_path

MOST_CONNECTIONS = 32
MOST_HEAD_BYTES = 8192
MOST_BODY_BYTES = 1 << 22
REQUEST_S = 10.0
"""The time in which a request must come whole."""
ANSWER_S = 10.0
"""The time in which an answer must be made and taken."""
CLOSE_S = 1.0
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
    """The answer to a request."""

    status: HTTPStatus
    body: bytes
    content_type: str = TEXT

    @classmethod
    def text(cls, status: HTTPStatus, line: str = "") -> Response:
        """One line of text; by default the name of the status."""
        return cls(status, f"{line or status.phrase}\n".encode())


Answer = Callable[[Request], Awaitable[Response]]


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
            listener = _unix_listener(path)
            self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=MOST_HEAD_BYTES)
            return 0
        listener = await _listener(listen, self._option)
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
            if request is not None:
                async with self._clock.timeout(ANSWER_S):
                    await self._reply(request, writer)
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

    async def _reply(self, request: Request | HTTPStatus, writer: asyncio.StreamWriter) -> None:
        if isinstance(request, HTTPStatus):
            response = Response.text(request)
        elif self._is_loopback and is_foreign(request.headers.get("host", "")):
            response = Response.text(HTTPStatus.MISDIRECTED_REQUEST)
        else:
            response = await self._answer(request)
        status = response.status
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {response.content_type}\r\n"
            f"Content-Length: {len(response.body)}\r\nConnection: close\r\n"
            "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\r\n"
        )
        is_head = isinstance(request, Request) and request.is_head
        writer.write(head.encode("latin-1") + (b"" if is_head else response.body))
        writer.close()
        await writer.wait_closed()  # a caller that does not read the answer meets the deadline


async def _listener(listen: str, option: str) -> socket.socket:
    host, port = split_address(listen, option)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _unusable(listen, option, error) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"cannot listen on {listen}: the port is in use",
                remedy=f"choose another with {option}, or port 0 for any free one",
            ) from None
        raise _unusable(listen, option, error) from None
    return listener


def _unusable(listen: str, option: str, error: OSError) -> UsageError:
    return UsageError(
        f"cannot listen on {listen} ({error.strerror or error})",
        remedy=f"give {option} an address of this machine",
    )


def _unix_listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
    except OSError as error:
        listener.close()
        raise EnvironmentProblem(
            f"cannot listen on the Unix socket {path} ({error.strerror})",
            remedy="check that its folder exists and can be written",
        ) from None
    return listener
