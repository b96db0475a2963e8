"""The second connections of peers with certificates: sealed by TCP, or by the Unix socket alone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from gossip_caffe.gossip.transport.secure.sealed import Offered, offered, way_to
from gossip_caffe.gossip.transport.weights_socket import CannotConnect
from gossip_caffe.security import sealing
from gossip_caffe.security.sealing import KEY_BYTES, TAG_BYTES


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """One of TCP, and one of Unix."""
    with socket.socket(socket.AF_INET) as by_tcp, socket.socket(socket.AF_UNIX) as by_path:
        yield by_tcp, by_path


def met(here: Offered, wire: socket.socket) -> socket.socket:
    async def connecting() -> socket.socket:
        return wire

    return asyncio.run(here.met(connecting()))


def test_without_certificates_a_connection_is_plain(sockets: tuple[socket.socket, socket.socket]) -> None:
    here = offered(7, is_secured=False)
    assert (here.port, here.key, here.seals()) == (7, b"", None)
    assert way_to("h", b"", is_secured=False) == ("h", None)
    assert [met(here, wire) for wire in sockets] == list(sockets)


@pytest.mark.needs("cryptography")
def test_with_certificates_one_side_opens_what_the_other_has_sealed() -> None:
    here = offered(7, is_secured=True)
    ours = here.seals()
    host, theirs = way_to("h", here.key, is_secured=True)
    assert (here.port, host) == (7, "h")
    assert ours is not None
    assert theirs is not None
    sealed = memoryview(bytearray(6 + TAG_BYTES))
    ours.seal(b"weight", b"head", sealed)
    assert bytes(theirs.open(sealed, b"head")) == b"weight"
    assert here.key.hex() not in repr(here)
    assert repr(here.key) not in repr(here)


def test_where_nothing_can_be_sealed_the_unix_socket_is_left(
    monkeypatch: pytest.MonkeyPatch, sockets: tuple[socket.socket, socket.socket]
) -> None:
    monkeypatch.setattr(sealing, "can_seal", lambda: False)
    here = offered(7, is_secured=True)
    assert (here.port, here.key) == (0, b"")
    assert way_to("h", here.key, is_secured=True) == ("", None)
    by_tcp, by_path = sockets
    assert met(here, by_path) is by_path
    with pytest.raises(CannotConnect):
        met(here, by_tcp)


@pytest.mark.needs("cryptography")
@pytest.mark.parametrize("length", [1, KEY_BYTES - 1, KEY_BYTES + 1, 1 << 16])
def test_a_key_of_another_length_costs_a_partner_the_connection_alone(length: int) -> None:
    with pytest.raises(CannotConnect, match=f"{length} bytes"):
        way_to("h", bytes(length), is_secured=True)
