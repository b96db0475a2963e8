"""Addresses of peers: HOST:PORT, checked wherever they come from.

gRPC accepts more forms as a target: a Unix socket, a list of hosts, the name of a resolver. A record in the store must
not be able to use those.
"""

from __future__ import annotations

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


def is_host(host: str) -> bool:
    """True for a DNS name, an IPv4 address, or an IPv6 address in brackets."""
    return _HOST.fullmatch(host) is not None and host.lower() not in _RESOLVERS


def is_address(address: str) -> bool:
    """True for "host:port" with a valid host and a port other than 0."""
    host, _, port = address.rpartition(":")
    return is_host(host) and _PORT.fullmatch(port) is not None and 0 < int(port) <= 65535
