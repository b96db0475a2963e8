"""How commands speak to a supervisor: one JSON object a line each way, on a Unix socket that only its user can open."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gossip_caffe.cluster.state import ClusterState
from gossip_caffe.errors import (
    Conflict,
    EnvironmentProblem,
    ExitCode,
    GossipCaffeError,
    ModelError,
    NotFound,
    StoreError,
    UsageError,
)

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

_ERRORS: dict[int, type[GossipCaffeError]] = {
    kind.exit_code: kind
    for kind in (UsageError, NotFound, StoreError, Conflict, EnvironmentProblem, ModelError)
}


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """The socket's address; a way around the 107 bytes that Linux allows for it, which deep folders exceed."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


async def serve(path: Path, answer: Answer) -> asyncio.Server:
    """Answer requests on the socket; an error goes back to the one who asked."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await _reply(line, answer)).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass  # who asked has gone
        finally:
            writer.close()

    with _address(path) as address:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(address)
        path.chmod(0o600)
    return await asyncio.start_unix_server(talk, sock=listener)


async def _reply(line: bytes, answer: Answer) -> dict[str, Any]:
    try:
        request = json.loads(line)
        if not isinstance(request, dict):
            raise UsageError("a request is a JSON object", remedy="is the command of another version?")
        return await answer(request)
    except GossipCaffeError as error:
        return {"error": error.message, "remedy": error.remedy, "code": int(error.exit_code)}
    except (KeyError, ValueError, TypeError) as error:
        return {
            "error": f"the supervisor cannot read the request {line.decode(errors='replace').strip()!r} ({error})",
            "remedy": "is the command of another version?",
            "code": int(ExitCode.USAGE),
        }


def ask(state: ClusterState, request: Mapping[str, object], timeout_s: float = 60.0) -> dict[str, Any]:
    """Send one request to a cluster's supervisor.

    Raises NotFound when none is up, the error that it answers, or GossipCaffeError when it does not answer in time.
    """
    try:
        line = _exchange(state.socket, json.dumps(request).encode() + b"\n", timeout_s)
    except TimeoutError:
        raise GossipCaffeError(
            f"the supervisor of cluster {state.name!r} does not answer within {timeout_s:.0f} s",
            remedy="see whether it is stopped; killing it takes all of its processes with it",
        ) from None
    except PermissionError:
        raise UsageError(
            f"cluster {state.name!r} in {state.folder} is another user's", remedy="ask it as that user"
        ) from None
    except (FileNotFoundError, ConnectionError):
        line = b""
    if not line:
        raise NotFound(
            f"no cluster {state.name!r} is up",
            remedy="start one with 'gossip-caffe cluster up', or give its --name",
        )
    reply = json.loads(line)
    if not isinstance(reply, dict):
        raise GossipCaffeError("the supervisor's answer cannot be read", remedy="is it of another version?")
    if "error" in reply:
        kind = _ERRORS.get(reply["code"], GossipCaffeError)
        raise kind(reply["error"], remedy=reply["remedy"])
    return reply


def _exchange(path: Path, request: bytes, timeout_s: float) -> bytes:
    with _address(path) as address, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(address)
        connection.sendall(request)
        with connection.makefile("rb") as lines:
            return lines.readline()
