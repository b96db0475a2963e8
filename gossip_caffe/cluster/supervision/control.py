"""Requests to a supervisor: one JSON object a line each way, on a Unix socket that only its user can open."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gossip_caffe.cluster.state.folder import ClusterState, known_clusters
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
LISTENS_WITHIN_S = 1.0

_ERRORS: dict[int, type[GossipCaffeError]] = {
    kind.exit_code: kind
    for kind in (UsageError, NotFound, StoreError, Conflict, EnvironmentProblem, ModelError)
}


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """Yield a short address of the socket: paths in deep folders exceed the 107 bytes that Linux allows."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


async def serve(path: Path, answer: Answer) -> asyncio.Server:
    """Answer requests on the socket. An error is sent back as the answer."""

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await _reply(line, answer)).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass  # the client has gone
        finally:
            writer.close()

    with _address(path) as address:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(address)
            path.chmod(0o600)
        except OSError as error:
            listener.close()
            raise EnvironmentProblem(
                f"cannot make the socket {path} ({error.strerror})",
                remedy="set $GOSSIP_CAFFE_STATE to a folder on a disk of this machine",
            ) from None
    return await asyncio.start_unix_server(serve_one, sock=listener)


async def _reply(line: bytes, answer: Answer) -> dict[str, Any]:
    try:
        request = json.loads(line)
        if not isinstance(request, dict):
            raise UsageError("a request is a JSON object", remedy="use the command of the same version")
        return await answer(request)
    except GossipCaffeError as error:
        return {"error": error.message, "remedy": error.remedy, "code": int(error.exit_code)}
    except OSError as error:
        return {
            "error": f"the supervisor could not carry out the command: {error.strerror or error}",
            "remedy": "free the resource that this machine lacks, and try again",
            "code": int(ExitCode.ENVIRONMENT),
        }
    except (KeyError, ValueError, TypeError) as error:
        return {
            "error": f"the supervisor cannot read the request {line.decode(errors='replace').strip()!r} ({error})",
            "remedy": "use the command of the same version",
            "code": int(ExitCode.USAGE),
        }


def ask(state: ClusterState, request: Mapping[str, object], timeout_s: float = 60.0) -> dict[str, Any]:
    """Send one request to a cluster's supervisor.

    Returns its answer. Raises NotFound when no such cluster is up, EnvironmentProblem when its folder cannot be opened,
    the error that the supervisor answers, or GossipCaffeError when it does not answer within ``timeout_s`` seconds.
    """
    try:
        line = _exchange(state.socket, json.dumps(request).encode() + b"\n", timeout_s)
    except TimeoutError:
        raise GossipCaffeError(
            f"the supervisor of cluster {state.name!r} does not answer within {timeout_s:.0f} s",
            remedy="check if it is stopped; if you kill it, all of its processes end",
        ) from None
    except PermissionError:
        raise UsageError(
            f"cluster {state.name!r} in {state.folder} belongs to another user",
            remedy="run the command as that user",
        ) from None
    except (FileNotFoundError, ConnectionError):
        line = b""
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot reach the supervisor of cluster {state.name!r} in {state.folder} ({error.strerror})",
            remedy="set $GOSSIP_CAFFE_STATE to the folder that it was started with",
        ) from None
    if not line:
        raise NotFound(
            f"no cluster {state.name!r} is up",
            remedy="start one with 'gossip-caffe cluster up', or give its --name",
        )
    reply = json.loads(line)
    if not isinstance(reply, dict):
        raise GossipCaffeError(
            "the supervisor's answer cannot be read", remedy="use the command of the same version"
        )
    if "error" in reply:
        kind = _ERRORS.get(reply["code"], GossipCaffeError)
        raise kind(reply["error"], remedy=reply["remedy"])
    return reply


def clusters_that_are_up() -> list[str]:
    """Return the names of this user's clusters whose supervisors listen, sorted."""
    return [state.name for state in known_clusters() if _listens(state)]


def _listens(state: ClusterState) -> bool:
    try:
        with (
            _address(state.socket) as address,
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection,
        ):
            connection.settimeout(LISTENS_WITHIN_S)
            connection.connect(address)
    except OSError:
        return False  # it was killed, or is another user's
    return True


def _exchange(path: Path, request: bytes, timeout_s: float) -> bytes:
    with _address(path) as address, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(address)
        connection.sendall(request)
        with connection.makefile("rb") as lines:
            return lines.readline()
