"""A notice that a machine is taken away, from a metadata endpoint on loopback and from one in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gossip_caffe.errors import EnvironmentProblem, UsageError
from gossip_caffe.peer import metadata as client
from gossip_caffe.peer.metadata import HttpMetadata
from gossip_caffe.peer.preemption import Answer, Kind, judged, leave_at_notice
from tests.fake_clock import FakeClock

TERMINATE = b'{"action": "terminate", "time": "2026-11-30T12:00:00Z"}'


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"TRUE", Kind.NOTICE),  # Google Cloud: instance/preempted
        (200, b"FALSE", Kind.NO_NOTICE),
        (200, b"false\n", Kind.NO_NOTICE),
        (200, b"NONE", Kind.NO_NOTICE),  # Google Cloud: instance/maintenance-event
        (200, b"TERMINATE_ON_HOST_MAINTENANCE", Kind.NOTICE),
        (200, b"", Kind.NO_NOTICE),
        (200, b" \r\n", Kind.NO_NOTICE),
        (204, b"", Kind.NO_NOTICE),
        (404, b"<html>Not Found</html>", Kind.NO_NOTICE),  # AWS: spot/instance-action
        (200, TERMINATE, Kind.NOTICE),
        (200, b'{"DocumentIncarnation":1,"Events":[]}', Kind.NO_NOTICE),
        (200, b'{"Events":[{"EventType":"Preempt"}]}', Kind.NOTICE),
        (401, b"", Kind.UNKNOWN),
        (500, b"TRUE", Kind.UNKNOWN),
        (302, b"TRUE", Kind.UNKNOWN),
    ],
)
def test_the_rule_for_a_notice(status: int, body: bytes, kind: Kind) -> None:
    assert judged(Answer(status, body)).kind is kind


def test_a_notice_is_shown_short_and_printable() -> None:
    reason = judged(Answer(200, b"\x1b[2J" + b"x" * 1000)).reason
    assert reason.isprintable()
    assert len(reason) <= 80


class Scripted:
    """An endpoint that gives one answer after another, and then the last for ever."""

    place = "http://metadata/x"

    def __init__(self, *answers: Answer | str) -> None:
        self._answers = list(answers)

    async def ask(self) -> Answer:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, str):
            raise EnvironmentProblem(answer)
        return answer


async def test_a_peer_leaves_at_the_first_notice_and_each_trouble_is_said_once() -> None:
    refused, none, odd = "Connection refused", Answer(404, b""), Answer(500, b"")
    endpoint = Scripted(refused, refused, none, odd, refused, odd, none, Answer(200, b"TRUE"))
    said: list[str] = []
    left: list[str] = []
    clock = FakeClock(automatic=True)
    await leave_at_notice(endpoint, "p0", clock, said.append, left.append)
    assert left == ["notice of preemption: TRUE"]
    assert [line.partition(" (")[2].partition(")")[0] for line in said] == [refused, "HTTP 500"]
    assert clock.monotonic() == 1000.0 + 7 * 5.0


@asynccontextmanager
async def served(answer: Callable[[str, dict[str, str]], bytes]) -> AsyncIterator[str]:
    """A server on loopback; ``answer`` gets the first line and the headers of a request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        writer.write(answer(first, headers))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def reply(status: str, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def test_the_request_is_one_that_a_metadata_server_answers() -> None:
    seen: list[tuple[str, dict[str, str]]] = []

    def answer(first: str, headers: dict[str, str]) -> bytes:
        seen.append((first, headers))
        return reply("200 OK", b"FALSE")

    async with served(answer) as url:
        assert await HttpMetadata(f"{url}/a/b?c=d").ask() == Answer(200, b"FALSE")
    ((first, headers),) = seen
    assert first == "GET /a/b?c=d HTTP/1.1"
    assert headers["metadata-flavor"] == "Google"
    assert headers["host"] == url.removeprefix("http://")


async def test_a_server_that_wants_a_session_token_gets_one() -> None:
    tokens: list[str] = []

    def answer(first: str, headers: dict[str, str]) -> bytes:
        if first == f"PUT {client.TOKEN_PATH} HTTP/1.1":
            tokens.append(f"token-{len(tokens)}")
            return reply("200 OK", tokens[-1].encode())
        if headers.get("x-aws-ec2-metadata-token") != "token-0":
            return reply("401 Unauthorized")
        return reply("200 OK", TERMINATE)

    async with served(answer) as url:
        endpoint = HttpMetadata(f"{url}/latest/meta-data/spot/instance-action")
        assert await endpoint.ask() == await endpoint.ask() == Answer(200, TERMINATE)
    assert tokens == ["token-0"]


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nTRUE", b"TRUE"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nTR\r\n2;x=y\r\nUE\r\n0\r\n\r\n",
            b"TRUE",
        ),
    ],
)
async def test_the_forms_of_a_body(sent: bytes, body: bytes) -> None:
    async with served(lambda *_: sent) as url:
        assert (await HttpMetadata(url).ask()).body == body


@pytest.mark.parametrize("sent", [b"", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 ok\r\n\r\n", b"x" * (1 << 17)])
async def test_an_answer_that_is_no_http_is_a_trouble(sent: bytes) -> None:
    async with served(lambda *_: sent) as url:
        with pytest.raises(EnvironmentProblem, match="no HTTP"):
            await HttpMetadata(url).ask()


async def test_a_server_that_hangs_or_is_not_there_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "DEADLINE_S", 0.1)
    hangs = asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hangs.wait()
        writer.close()

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server:
        with pytest.raises(EnvironmentProblem, match="no answer within"):
            await HttpMetadata(url).ask()
        hangs.set()
    with pytest.raises(EnvironmentProblem, match=r"Connection refused|no answer within"):
        await HttpMetadata(url).ask()


async def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with served(lambda *_: reply("200 OK", b"NONE")) as url:
        assert (await HttpMetadata(url).ask()).body == b"NONE"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "https://h/",
        "file:///etc/passwd",
        "http://",
        "http://u:p@h/",
        "http://h:99999/",
        "http://h/a b",
        "http://h/\n",
    ],
)
def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="--preemption-url is no http://"):
        HttpMetadata(url)
