"""Where a peer listens, and what it tells others: by default the address with which this machine reaches etcd."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gossip_caffe.errors import EnvironmentProblem, UsageError
from gossip_caffe.gossip.grpc_server import split_address

ANY_HOSTS = frozenset({"0.0.0.0", "::", "[::]"})

Towards = Callable[[Sequence[str]], str]


@dataclass(frozen=True, slots=True)
class Address:
    """``listen``: "host:port" to bind, port 0 for any; others are told ``host``, with ``port`` or the bound one."""

    listen: str
    host: str
    port: int
    why: str

    def advertised(self, bound_port: int) -> str:
        """What others are told, once the port is bound."""
        return f"{self.host}:{self.port or bound_port}"


def choose_address(listen: str, advertise: str, endpoints: Sequence[str], towards: Towards) -> Address:
    """From ``--listen`` and ``--advertise`` (empty: not given) and etcd's endpoints, to what a peer does.

    ``towards`` gives this machine's address on the way to the endpoints. Raises UsageError for what is no address.
    """
    asked = split_address(listen, "--listen")[0] if listen else ""
    told, port = _advertised(advertise) if advertise else ("", 0)
    bound = asked or towards(endpoints)
    listen = listen or f"{bound}:0"
    if told:
        return Address(listen, told, port, "as --advertise says")
    if asked and asked not in ANY_HOSTS:
        return Address(listen, asked, 0, "as --listen says")
    return Address(listen, towards(endpoints), 0, "the address with which etcd is reached")


def _advertised(text: str) -> tuple[str, int]:
    """HOST or HOST:PORT; port 0 means the one that is bound."""
    bare_ipv6 = text.startswith("[") and text.endswith("]")
    host, port = split_address(f"{text}:0" if ":" not in text or bare_ipv6 else text, "--advertise")
    if host in ANY_HOSTS:
        raise UsageError(
            f"--advertise {text!r} is no address that others can call",
            remedy="give one of this machine's own, or leave it out",
        )
    return host, port


def address_towards(endpoints: Sequence[str]) -> str:
    """This machine's address as the first endpoint that can be resolved sees it; nothing is sent.

    Raises EnvironmentProblem when there is no way to any.
    """
    why = "no endpoint"
    for endpoint in endpoints:
        host, port = split_address(endpoint, "--etcd")
        try:
            for family, kind, _, _, target in socket.getaddrinfo(
                host.strip("[]"), port or 9, type=socket.SOCK_DGRAM
            ):
                with socket.socket(family, kind) as probe:
                    probe.connect(target)  # a datagram socket: it only looks up the route
                    found = str(probe.getsockname()[0])
                    return f"[{found}]" if ":" in found else found
        except OSError as error:
            why = error.strerror or str(error)
    raise EnvironmentProblem(
        f"cannot tell by which address others reach this machine ({why})",
        remedy="give --listen HOST:PORT, and --advertise HOST:PORT if that differs",
    )
