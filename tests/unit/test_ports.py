"""A port that is kept is free for the program that it is kept for, and for nobody else."""

from __future__ import annotations

import socket

import pytest

from gossip_caffe.cluster.etcd.ports import LOOPBACK, held_port


def listening(port: int, *, again: bool) -> socket.socket:
    server = socket.socket()
    if again:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((LOOPBACK, port))
        server.listen()
    except OSError:
        server.close()
        raise
    return server


def test_whoever_may_be_started_again_listens_there_one_life_after_the_other() -> None:
    with held_port() as held:
        port = held.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((LOOPBACK, port), 10.0)
        for _ in range(2):
            with listening(port, again=True), socket.create_connection((LOOPBACK, port), 10.0):
                pass
        with pytest.raises(OSError, match="in use"):
            listening(port, again=False)


def test_nobody_is_given_a_port_that_is_kept() -> None:
    with held_port() as held:
        port = held.getsockname()[1]
        others = [held_port() for _ in range(200)]
        ports = {other.getsockname()[1] for other in others}
        for other in others:
            other.close()
    assert port not in ports
    assert len(ports) == 200


def test_a_port_on_which_somebody_listens_cannot_be_kept() -> None:
    with socket.create_server((LOOPBACK, 0)) as server, pytest.raises(OSError, match="in use"):
        held_port(port=server.getsockname()[1])
