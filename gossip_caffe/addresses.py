"""Addresses of peers: HOST:PORT, or NAME@HOST:PORT for a peer with a certificate; checked wherever they come from.

NAME is the peer's name, for which the certificate at HOST:PORT must be.

gRPC accepts more forms as a target: a Unix socket, a list of hosts, the name of a resolver. A record in the store must
not be able to use those.
"""

from __future__ import annotations

import ipaddress
import re

from gossip_caffe.errors import UsageError

MOST_HOST = 253
"""Limit of a DNS name, in characters."""
_HOST = re.compile(
    rf"[A-Za-z0-9_](?:[A-Za-z0-9._-]{{0,{MOST_HOST - 1}}})"  # a DNS name or an IPv4 address
    r"|\[[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]{1,16})?\]"  # an IPv6 address, perhaps with its interface
)
_RESOLVERS = frozenset(
    {
        "dns",
        "fd",
        "google-c2p",
        "google-c2p-experimental",
        "http_proxy",
        "inproc",
        "ipv4",
        "ipv6",
        "passthrough",
        "unix",
        "unix-abstract",
        "vsock",
        "xds",
    }
)
"""Words before a colon that gRPC takes as the name of a resolver, and not as a host."""
_PORT = re.compile(r"[0-9]{1,5}")


def split_address(address: str, option: str) -> tuple[str, int]:
    """Split "host:port"; port 0 means any. Raises UsageError with the name of the option."""
    host, _, port = address.rpartition(":")
    if not is_host(host) or not _PORT.fullmatch(port) or int(port) > 65535:
        raise UsageError(
            f"{option} {address!r} is no HOST:PORT", remedy="give for example 0.0.0.0:7100, or port 0"
        )
    return host, int(port)


def with_name(place: str, name: str) -> str:
    """The address of a peer with a certificate: ``place`` is "host:port"."""
    return f"{name}@{place}"


def name_in(address: str) -> str:
    """The name for which the certificate at an address must be; "" if connections to it are plain."""
    return "" if address.startswith("unix:") else address.rpartition("@")[0]


def place_of(address: str) -> str:
    """An address without the name: "host:port" or "unix:PATH"."""
    return address if address.startswith("unix:") else address.rpartition("@")[2]


def is_address_of(address: str, peer: str) -> bool:
    """True for "host:port", or for that after the name of this peer and no other one."""
    return is_address(place_of(address)) and name_in(address) in {"", peer} and not address.startswith("@")


def is_host(host: str) -> bool:
    """True for a DNS name, an IPv4 address, or an IPv6 address in brackets."""
    return _HOST.fullmatch(host) is not None and host.lower() not in _RESOLVERS


def is_loopback(host: str) -> bool:
    """True for a host by which only this machine is reached: "localhost", or an IP address of loopback."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_address(address: str) -> bool:
    """True for "host:port" with a valid host and a port other than 0."""
    host, _, port = address.rpartition(":")
    return is_host(host) and _PORT.fullmatch(port) is not None and 0 < int(port) <= 65535
