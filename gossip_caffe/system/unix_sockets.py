"""Addresses of Unix sockets: their form in options and records, and their form for gRPC.

An address is HOST:PORT, or ``unix:PATH`` for a socket of this machine, where PATH is absolute.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

UNIX = "unix:"
MOST_PATH_BYTES = 107
"""Linux's limit of the path of a Unix socket (unix(7)): 108 bytes including the final zero."""
_NAME = re.compile(r"peer-[0-9]{1,10}-[0-9a-f]{8}")


def unix_address(path: Path) -> str:
    """The address of the socket at ``path``."""
    return f"{UNIX}{path}"


def socket_path(address: str) -> Path | None:
    """The path of the socket in an address; None for an address without a Unix socket."""
    return Path(address.removeprefix(UNIX)) if address.startswith(UNIX) else None


def path_fault(path: Path) -> str:
    """Why no socket can be at ``path``; "" when one can."""
    text = str(path)
    if not path.is_absolute():
        return "the path does not begin at the root"
    if "," in text:
        return "the path has a comma, which separates endpoints"
    if not text.isprintable():
        return "the path has characters that cannot be printed"
    if len(text.encode()) > MOST_PATH_BYTES:
        return f"the path is longer than the {MOST_PATH_BYTES} bytes that Linux permits"
    return ""


def grpc_target(address: str) -> str:
    """The address in gRPC's form: gRPC parses the path of a Unix socket as a URI's path."""
    path = socket_path(address)
    return address if path is None else f"{UNIX}{quote(str(path))}"


def folder_of_sockets(endpoints: Sequence[str]) -> Path | None:
    """The folder of the local cluster whose etcd has these endpoints; None when any of them is HOST:PORT.

    All sockets of the cluster's peers are in that folder. An address ``unix:PATH`` in a record must lead there, or it
    is ignored.
    """
    folders = {path.parent if (path := socket_path(endpoint)) else None for endpoint in endpoints}
    return folders.pop() if len(folders) == 1 else None


def peer_socket_name(pid: int, random_bytes: bytes) -> str:
    """How the socket of a peer is called; ``random_bytes``: 4 of them."""
    return f"peer-{pid}-{random_bytes.hex()}"


def is_peer_socket(address: str) -> bool:
    """True for a valid address of a peer's Unix socket, in the folder of any cluster."""
    path = socket_path(address)
    return (
        path is not None
        and _NAME.fullmatch(path.name) is not None
        and address == unix_address(path)
        and ".." not in path.parts
        and not path_fault(path)
    )


def is_socket_in(folder: Path | None, address: str) -> bool:
    """True for the address of a Unix socket directly in this folder; always False when ``folder`` is None."""
    return (
        folder is not None and is_peer_socket(address) and socket_path(address) == folder / Path(address).name
    )
