"""A real etcd for all integration tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gossip_caffe.cluster.etcd.server import EtcdServer


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """One etcd on loopback, for tests that use prefixes of their own."""
    server = EtcdServer(tmp_path_factory.mktemp("etcd") / "data")
    server.start()
    yield server
    server.stop()
