"""The sockets at which the HTTP server listens: a port of this machine, or a Unix socket of this user alone."""

from __future__ import annotations

import asyncio
import errno
import socket
from pathlib import Path

from gossip_caffe.addresses import split_address
from gossip_caffe.errors import Conflict, EnvironmentProblem, UsageError


async def port_listener(listen: str, option: str) -> socket.socket:
    """Bind "host:port". ``option``: the name of the option that gave it. Raises Conflict or UsageError."""
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


def unix_listener(path: Path) -> socket.socket:
    """Bind a Unix socket that only this user can open. Raises EnvironmentProblem when it cannot be made."""
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
