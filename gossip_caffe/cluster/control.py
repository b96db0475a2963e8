"""How commands speak to a supervisor: one JSON object a line each way, on a Unix socket that only its user can open."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from gossip_caffe.cluster.state import ClusterState
from gossip_caffe.errors import Conflict, ExitCode, GossipCaffeError, NotFound, UsageError

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

_ERRORS: dict[int, type[GossipCaffeError]] = {
    ExitCode.USAGE: UsageError,
    ExitCode.NOT_FOUND: NotFound,
    ExitCode.CONFLICT: Conflict,
}


async def serve(path: Path, answer: Answer) -> asyncio.Server:
    """Answer requests on the socket; an error goes back to the one who asked."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                try:
                    reply = await answer(json.loads(line))
                except GossipCaffeError as error:
                    reply = {"error": error.message, "remedy": error.remedy, "code": int(error.exit_code)}
                writer.write(json.dumps(reply).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(talk, path=str(path))
    path.chmod(0o600)
    return server


def ask(state: ClusterState, request: Mapping[str, object], timeout_s: float = 60.0) -> dict[str, Any]:
    """Send one request to a cluster's supervisor. Raises NotFound when none is up, or the error that it answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(state.socket))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile() as lines:
                line = lines.readline()
        except (FileNotFoundError, ConnectionError):
            line = ""
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
