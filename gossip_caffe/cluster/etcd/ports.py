"""Reserved ports of this machine, for a program that will listen later."""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"


def held_port(host: str = LOOPBACK, port: int = 0) -> socket.socket:
    """Return a socket that reserves a port (0: any free port) for a program. Raises OSError when the port is in use.

    The socket is bound and never listens. A connection is refused until the program listens, and the system gives the
    port to no other program, also while the program is dead. A program that sets SO_REUSEADDR, as restartable servers
    do, can listen on the port in spite of this socket (socket(7)).
    """
    held = socket.socket()
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host, port))
    except OSError:
        held.close()
        raise
    return held
