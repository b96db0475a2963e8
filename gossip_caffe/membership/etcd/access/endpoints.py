"""The words of ``--etcd``: endpoints of etcd, each checked and in its one form."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from gossip_caffe.addresses import is_loopback
from gossip_caffe.errors import UsageError
from gossip_caffe.security.security import PLAIN, Security
from gossip_caffe.system.unix_sockets import UNIX, path_fault, unix_address


def parse_endpoints(text: str, security: Security = PLAIN) -> tuple[str, ...]:
    """Parse "host:port,host:port", or "unix:PATH" for an etcd on this machine.

    A relative path begins at the folder here. "https://" needs a ``security`` with certificate files, and "http://" one
    without; without a scheme TLS is used if there are such files.

    Returns one endpoint or more. Raises UsageError, which names the wrong part and the right form.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if any("@" in part and not part.startswith(UNIX) for part in parts):
        # The message must not repeat the password, which may contain commas.
        raise UsageError(
            "--etcd holds a user's name or password, which everybody on this machine can read there",
            remedy="give --user and --password-file, and in --etcd what follows the @ alone: "
            f"{text.rpartition('@')[2]}",
        )
    return tuple(_endpoint(part, security) for part in parts or [""])


def _endpoint(part: str, security: Security) -> str:
    if part.startswith(UNIX):
        return _socket(part)
    scheme, there, rest = part.rpartition("://")
    rest = rest.rstrip("/") if there else rest
    host, colon, port = rest.rpartition(":")
    right = "give for example 127.0.0.1:2379"

    def refused(why: str, remedy: str) -> UsageError:
        return UsageError(f"--etcd {part!r} {why}", remedy=remedy)

    if scheme.lower() not in {"", "http", "https"}:
        raise refused(f"begins with {scheme}://", f"give {rest} alone, or https://{rest}")
    if scheme.lower() == "https" and security.tls is None:
        raise refused("needs certificates", "give --tls-dir DIR, or --cacert, --cert and --key")
    if scheme.lower() == "http" and security.tls is not None:
        raise refused("is plain, and certificate files are given", f"give https://{rest}")
    if "/" in rest or "?" in rest:
        short = rest.partition("/")[0].partition("?")[0]
        raise refused("goes on after the port", f"give {short} alone" if short else right)
    if not rest.startswith("[") and rest.count(":") > 1:
        raise refused("is an IPv6 address without brackets", f"give {_with_brackets(rest)}")
    if _is_ipv6(rest):
        raise refused("is no HOST:PORT", f"give {rest}:2379")
    if host.startswith("[") and not _is_ipv6(host):
        raise refused("has no IPv6 address between its brackets", "give for example [::1]:2379")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise refused("is no HOST:PORT", f"give {rest}:2379" if rest and not colon else right)
    if security.user and security.tls is None and not security.insecure and not is_loopback(host):
        raise refused(
            "is plain: everybody on the way would read the password of --user",
            "give --tls-dir DIR, or --insecure in a network of machines that you trust",
        )
    if any(letter.isspace() or not letter.isprintable() for letter in host):
        raise refused("is no HOST:PORT", right)
    return rest


def _is_ipv6(host: str) -> bool:
    """True for an IPv6 address in brackets."""
    try:
        ipaddress.IPv6Address(host[1:-1] if host[:1] == "[" and host[-1:] == "]" else "")
    except ValueError:
        return False
    return True


def _with_brackets(text: str) -> str:
    """The address with brackets added: its last number is the port, unless only the whole text is an address."""
    host, _, port = text.rpartition(":")
    for address, number in ((host, port), (text, "2379")):
        if _is_ipv6(f"[{address}]") and number.isdigit():
            return f"[{address}]:{number}"
    return "[ADDRESS]:PORT"


def _socket(part: str) -> str:
    """The one form of unix:PATH and unix:///PATH, with all links resolved.

    Peers derive the folder of their own sockets from it, so all must write it alike.
    """
    words = part.removeprefix(UNIX)

    def refused(why: str) -> UsageError:
        return UsageError(f"--etcd {part!r} {why}", remedy="give unix:PATH, the path of etcd's Unix socket")

    if words.startswith("//") and not words.startswith("///"):
        raise refused("names a host")
    if not words.strip("/"):
        raise refused("names no socket")
    path = Path(words.removeprefix("//")).resolve()
    if fault := path_fault(path):
        raise refused(f"cannot be a socket: {fault}")
    return unix_address(path)
