"""The addresses of Unix sockets: which are taken, how gRPC wants them, and which a record may name."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.system.unix_sockets import (
    MOST_PATH_BYTES,
    folder_of_sockets,
    grpc_target,
    is_socket_in,
    path_fault,
    socket_path,
    unix_address,
)

FOLDER = Path("/run/user/0/gossip-caffe-x")


@pytest.mark.parametrize(
    ("endpoints", "folder"),
    [
        ((f"unix:{FOLDER}/etcd:1",), FOLDER),
        ((f"unix:{FOLDER}/etcd:1", f"unix:{FOLDER}/link-0"), FOLDER),
        (("127.0.0.1:2379",), None),
        ((f"unix:{FOLDER}/etcd:1", "127.0.0.1:2379"), None),
        (("unix:/a/etcd:1", "unix:/b/etcd:1"), None),
        ((), None),
    ],
)
def test_the_sockets_of_a_cluster_are_in_the_folder_of_its_etcds(
    endpoints: tuple[str, ...], folder: Path | None
) -> None:
    assert folder_of_sockets(endpoints) == folder


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:7100",
        "unix:",
        "unix:peer-1",
        "unix:/etc/passwd",
        f"unix://{FOLDER}/peer-1-0a0b0c0d",
        f"unix:{FOLDER}",
        f"unix:{FOLDER}/",
        f"unix:{FOLDER}/..",
        f"unix:{FOLDER}/etcd:1",
        f"unix:{FOLDER}/../peer-1-0a0b0c0d",
        "unix:/elsewhere/peer-1-0a0b0c0d",
        f"unix:{FOLDER}/.",
        f"unix:{FOLDER}/../gossip-caffe-x/peer-1-0a0b0c0d",
        f"unix:{FOLDER}/deeper/peer-1-0a0b0c0d",
        f"unix:{FOLDER}/peer-1-0a0b0c0d,x",
        f"unix:{FOLDER}/peer-1-0a0b0c0d\x1b",
        f"unix:{FOLDER}/{'x' * MOST_PATH_BYTES}",
        f"unix-abstract:{FOLDER}/peer-1-0a0b0c0d",
        f"dns:///unix:{FOLDER}/peer-1-0a0b0c0d",
    ],
)
def test_a_record_names_a_socket_of_its_own_cluster_or_none(address: str) -> None:
    assert not is_socket_in(FOLDER, address)


def test_a_socket_of_the_cluster_is_taken_where_there_is_one_and_nowhere_else() -> None:
    assert is_socket_in(FOLDER, f"unix:{FOLDER}/peer-1-0a0b0c0d")
    assert not is_socket_in(None, f"unix:{FOLDER}/peer-1-0a0b0c0d")


@given(st.text(st.characters(exclude_characters="\0"), min_size=1))
def test_what_grpc_is_given_is_a_uri_of_just_that_path(name: str) -> None:
    path = Path("/run") / name.lstrip("/")
    if path_fault(path):
        return
    target = grpc_target(unix_address(path))
    assert target.isascii()
    assert not set(target) & set(" ?#,")
    assert unquote(target.removeprefix("unix:")) == str(path)
    assert socket_path(unix_address(path)) == path


def test_ports_are_left_alone() -> None:
    assert grpc_target("host:1") == "host:1"
    assert socket_path("host:1") is None
