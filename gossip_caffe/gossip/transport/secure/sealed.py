"""The second connections of peers with certificates: by TCP they are sealed, or they are not made at all.

The side that listens makes the key, and hands it over by gRPC. Where nothing can be sealed (the package cryptography is
missing), only the Unix socket of this machine is left, which needs no seals.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable
from dataclasses import dataclass, field

from gossip_caffe.gossip.transport.weights_socket import CannotConnect
from gossip_caffe.security.sealing import SealBroken, Seals, can_seal, new_key


@dataclass(frozen=True, slots=True)
class Offered:
    """One connection that the listening side offers.

    ``port``: by TCP, 0 for none. ``key``: of its seals, b"" for none.
    """

    port: int
    key: bytes = field(repr=False)

    def seals(self) -> Seals | None:
        """Make the seals of the listening side for a connection by TCP; None: it is plain."""
        return Seals(self.key, answers=True) if self.key else None

    async def met(self, connecting: Awaitable[socket.socket]) -> socket.socket:
        """The connection, if it is one that was offered. Raises CannotConnect for one by TCP where no port was."""
        wire = await connecting
        if not self.port and wire.family != socket.AF_UNIX:
            raise CannotConnect(
                "a connection by TCP cannot be sealed here: the package cryptography is missing"
            )
        return wire


def offered(port: int, *, is_secured: bool) -> Offered:
    """Offer a connection on ``port``. ``is_secured``: this peer has a certificate."""
    key = new_key() if is_secured else b""
    return Offered(0 if is_secured and not key else port, key)


def way_to(host: str, key: bytes, *, is_secured: bool) -> tuple[str, Seals | None]:
    """The host to connect to by TCP, "" if that may not be, and the seals of the calling side.

    ``is_secured``: the other side has a certificate; ``key``: the key that came from it. Raises CannotConnect if it is
    none.
    """
    if not is_secured:
        return host, None
    if not key or not can_seal():
        return "", None
    try:
        return host, Seals(key, answers=False)
    except SealBroken as error:
        raise CannotConnect(f"the connection for the weights cannot be sealed: {error}") from None
