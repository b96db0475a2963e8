"""Ports of this machine that are kept for a program which is yet to listen."""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"


def held_port(host: str = LOOPBACK, port: int = 0) -> socket.socket:
    """A socket that keeps a port, 0: any free one, for a program that is to listen there. Raises OSError: it is taken.

    It is bound and never listens: a connection is refused until the program does, and nobody else is given the port
    before that or while the program is dead. Whoever sets SO_REUSEADDR, as servers do that are to be started again,
    listens beside it (socket(7)).
    """
    held = socket.socket()
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host, port))
    except OSError:
        held.close()
        raise
    return held
