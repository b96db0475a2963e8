"""The address on which a peer listens, and the address that it advertises to other peers.

By default both are the address with which this machine reaches etcd. Where etcd has a Unix socket, as in a local
cluster, a peer has a Unix socket beside it, and no port.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gossip_caffe.addresses import is_loopback, split_address
from gossip_caffe.errors import EnvironmentProblem, UsageError
from gossip_caffe.security.security import PLAIN, Security
from gossip_caffe.system.unix_sockets import folder_of_sockets, socket_path, unix_address

LOOPBACK = "127.0.0.1"
METRICS_OPTION, METRICS_OFF = "--metrics-listen", "none"
ANY_HOSTS = frozenset({"0.0.0.0", "::", "[::]"})

Towards = Callable[[Sequence[str]], str]


@dataclass(frozen=True, slots=True)
class Address:
    """The address of one peer, and in ``why`` the reason for it.

    ``listen``: "host:port" to bind, port 0 for any free one. ``host`` and ``port`` are advertised; port 0 stands for
    the bound one. For a Unix socket ``listen`` is "unix:PATH", which is advertised as it is.
    """

    listen: str
    host: str
    port: int
    why: str

    def advertised(self, bound_port: int) -> str:
        """The address to advertise, "host:port" or "unix:PATH", when ``bound_port`` was bound."""
        if socket_path(self.listen) is not None:
            return self.listen
        return f"{self.host}:{self.port or bound_port}"


def choose_address(
    listen: str, advertise: str, endpoints: Sequence[str], towards: Towards, name: str = ""
) -> Address:
    """Choose a peer's address from ``--listen`` and ``--advertise`` (empty: not given) and etcd's endpoints.

    ``towards`` returns the address with which this machine reaches the endpoints. ``name`` is the name of the peer's
    Unix socket, if it gets one. Raises UsageError for an option that is not an address.
    """
    folder = folder_of_sockets(endpoints)
    if folder is not None and name and not listen and not advertise:
        return Address(unix_address(folder / name), "", 0, "beside the socket of etcd")
    asked = split_address(listen, "--listen")[0] if listen else ""
    told, port = _advertised(advertise) if advertise else ("", 0)
    bound = asked or towards(endpoints)
    listen = listen or f"{bound}:0"
    if told:
        return Address(listen, told, port, "as --advertise says")
    if asked and asked not in ANY_HOSTS:
        return Address(listen, asked, 0, "as --listen says")
    return Address(listen, towards(endpoints), 0, "the address with which etcd is reached")


def choose_metrics_address(
    listen: str, calls: Address, endpoints: Sequence[str], towards: Towards, name: str
) -> Address | None:
    """Choose the address of a peer's metrics from ``--metrics-listen`` (empty: not given); None: it serves none.

    The default is a Unix socket beside that of etcd where etcd has one, so that a local cluster has no port, and else a
    free port on loopback. ``calls``: the address for other peers' calls; its host is advertised if ``listen`` is all
    addresses of the machine. ``name`` is the name of the Unix socket. Raises UsageError for a text that is no address.
    """
    if listen == METRICS_OFF:
        return None
    folder = folder_of_sockets(endpoints)
    if not listen and folder is not None:
        return Address(unix_address(folder / name), "", 0, "beside the socket of etcd")
    if not listen:
        return Address(f"{LOOPBACK}:0", LOOPBACK, 0, "on loopback")
    host, _ = split_address(listen, METRICS_OPTION)
    if host in ANY_HOSTS:
        host = calls.host or towards(endpoints)
    return Address(listen, host, 0, f"as {METRICS_OPTION} says")


def listening(text: str, security: Security = PLAIN, option: str = "--etcd-listen") -> tuple[str, int]:
    """Read the address of an etcd, the value of ``option``: one of this machine that others can reach, and a port.

    Raises UsageError for a text that is not an address, and for the address of all interfaces: peers advertise the
    address with which they reach etcd, so it has to be a single one. Raises it also for an address that other machines
    reach, unless there is a certificate or ``insecure``.
    """
    host, port = split_address(text, option)
    if host in ANY_HOSTS:
        raise UsageError(
            f"{option} {text!r} is no address by which others reach this machine",
            remedy="give one of this machine's own addresses, for example that of its network interface",
        )
    if security.tls is None and not security.insecure and not is_loopback(host):
        raise UsageError(
            f"other machines reach {option} {text}, and this etcd has no certificate",
            remedy="give --tls-dir DIR, or --insecure in a network of machines that you trust (docs/security.md)",
        )
    return host, port


def _advertised(text: str) -> tuple[str, int]:
    """Read HOST or HOST:PORT; port 0 stands for the port that is bound."""
    bare_ipv6 = text.startswith("[") and text.endswith("]")
    host, port = split_address(f"{text}:0" if ":" not in text or bare_ipv6 else text, "--advertise")
    if host in ANY_HOSTS:
        raise UsageError(
            f"--advertise {text!r} is no address that others can call",
            remedy="give one of this machine's own addresses, or leave the option out",
        )
    return host, port


def address_towards(endpoints: Sequence[str]) -> str:
    """This machine's address as the first endpoint with a known address sees it. Nothing is sent.

    Raises EnvironmentProblem when no endpoint has an address to which this machine has a route.
    """
    why = "no endpoint"
    if folder_of_sockets(endpoints) is not None:
        return LOOPBACK
    for endpoint in endpoints:
        if socket_path(endpoint) is not None:
            continue
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
