"""A client of a machine's metadata endpoint: plain HTTP, without a proxy, each request within two seconds.

Such an endpoint has an address that only the machine itself reaches (169.254.169.254), which no proxy serves.
"""

from __future__ import annotations

import asyncio
import os
from urllib.parse import urlsplit

from gossip_caffe.errors import EnvironmentProblem, UsageError
from gossip_caffe.peer.preemption import Answer

DEADLINE_S = 2.0
MOST_BYTES = 1 << 16
TOKEN_PATH = "/latest/api/token"
_TOKEN_S = "21600"
_HEADERS = {"Metadata-Flavor": "Google", "Metadata": "true"}
"""Google Cloud and Azure answer only requests with their header; others ignore both."""


class HttpMetadata:
    """The metadata endpoint at a URL. An endpoint that answers 401 is asked for a session token first, as on AWS."""

    def __init__(self, url: str) -> None:
        """Raises UsageError for a URL that is not ``http://HOST[:PORT]/PATH``."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or 80
        except ValueError:
            parts, host, port = urlsplit(""), None, 80
        text = url.isascii() and url.isprintable() and " " not in url
        if parts.scheme != "http" or not host or parts.username is not None or not text:
            raise UsageError(
                "--preemption-url is no http://HOST[:PORT]/PATH",
                remedy="give the URL of the metadata endpoint, without user and password",
            )
        self._host, self._port, self._address = host, port, parts.netloc
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._token = ""
        self.place = f"http://{parts.netloc}{parts.path}"

    async def ask(self) -> Answer:
        """Return the answer of the endpoint. Raises EnvironmentProblem if there is none within ``DEADLINE_S``."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                answer = await self._get()
                if answer.status == 401:
                    self._token = await self._new_token()
                    answer = await self._get()
                return answer
        except TimeoutError:
            cause = f"no answer within {DEADLINE_S:.0f} s"
        except OSError as error:
            known = error.errno is not None and error.errno > 0
            cause = os.strerror(error.errno or 0) if known else error.strerror or str(error)
        except (ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            cause = "its answer is no HTTP"
        raise EnvironmentProblem(cause)

    async def _get(self) -> Answer:
        token = {"X-aws-ec2-metadata-token": self._token} if self._token else {}
        return await self._request("GET", self._path, token)

    async def _new_token(self) -> str:
        """Fetch a session token; "" if there is none. It is a secret: it goes to this endpoint alone."""
        answer = await self._request("PUT", TOKEN_PATH, {"X-aws-ec2-metadata-token-ttl-seconds": _TOKEN_S})
        token = answer.body.decode("latin-1").strip()
        return token if answer.status == 200 and token.isascii() and token.isprintable() else ""

    async def _request(self, method: str, path: str, headers: dict[str, str]) -> Answer:
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=MOST_BYTES)
        try:
            fields = {"Host": self._address, "Connection": "close", **_HEADERS, **headers}
            lines = [
                f"{method} {path} HTTP/1.1",
                *(f"{name}: {value}" for name, value in fields.items()),
                "",
                "",
            ]
            writer.write("\r\n".join(lines).encode("ascii"))
            await writer.drain()
            return await _answer(reader)
        finally:
            writer.close()


async def _answer(reader: asyncio.StreamReader) -> Answer:
    """Read an answer. Raises ValueError or an error of the reader for bytes that are no HTTP."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    protocol, _, rest = first.partition(" ")
    if not protocol.startswith("HTTP/1."):
        raise ValueError(first)
    fields = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    if fields.get("transfer-encoding", "").lower() == "chunked":
        body = await _chunks(reader)
    elif "content-length" in fields:
        body = await reader.readexactly(min(int(fields["content-length"]), MOST_BYTES))
    else:
        body = await reader.read(MOST_BYTES)
    return Answer(int(rest[:3]), body)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while (size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16)) and len(body) < MOST_BYTES:
        body += (await reader.readexactly(min(size, MOST_BYTES) + 2))[:-2]
    return body
