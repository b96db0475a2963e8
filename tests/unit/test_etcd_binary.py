"""etcd leaves its address to gRPC where it can, since its HTTP server makes gRPC over TLS slow."""

from __future__ import annotations

from pathlib import Path

import pytest

from gossip_caffe.cluster.etcd.etcd_binary import HTTP_APART, knows
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.errors import EnvironmentProblem
from tests.tls_files import Authority


def etcd_with(folder: Path, help_text: str) -> Path:
    """An etcd that prints this help, and else writes its flags to folder/flags and ends."""
    binary = folder / "etcd-of-a-test"
    binary.write_text(
        f'#!/bin/sh\nif [ "$1" = --help ]; then echo "{help_text}" >&2; exit 0; fi\n'
        f'echo "$@" > {folder}/flags\nexit 1\n'
    )
    binary.chmod(0o755)
    return binary


@pytest.mark.parametrize(
    ("help_text", "expected"), [(f"  {HTTP_APART} ''", True), ("  --name 'default'", False)]
)
def test_etcd_over_tls_speaks_grpc_alone_where_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, help_text: str, expected: bool
) -> None:
    binary = etcd_with(tmp_path, help_text)
    assert knows(binary, HTTP_APART) is expected
    monkeypatch.setenv("ETCD_BIN", str(binary))
    own = Authority.make().issue(tmp_path / "tls", "etcd", "127.0.0.1")
    with pytest.raises(EnvironmentProblem):
        EtcdServer(tmp_path / "data", tls=own.tls).start()
    assert (HTTP_APART in (tmp_path / "flags").read_text().split()) is expected


def test_a_plain_etcd_is_asked_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETCD_BIN", str(etcd_with(tmp_path, HTTP_APART)))
    with pytest.raises(EnvironmentProblem):
        EtcdServer(tmp_path / "data").start()
    assert HTTP_APART not in (tmp_path / "flags").read_text()


def test_an_etcd_that_cannot_be_run_knows_no_flag(tmp_path: Path) -> None:
    assert not knows(tmp_path / "absent", HTTP_APART)
