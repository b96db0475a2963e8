"""Both stores keep the one contract: etcd's and the one in memory."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator

import pytest

from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd_server import EtcdServer
from gossip_caffe.errors import StoreUnavailable
from gossip_caffe.membership.etcd_channel import EtcdSettings
from gossip_caffe.membership.etcd_store import EtcdStore
from gossip_caffe.membership.memory_etcd import MemoryEtcd
from gossip_caffe.membership.memory_store import MemoryStore
from gossip_caffe.membership.store import Store
from tests.etcd_copy import store_of
from tests.store_contract import StoreContract


@pytest.fixture
def prefix() -> str:
    return f"/test/{uuid.uuid4().hex}/"


class TestEtcd(StoreContract):
    @pytest.fixture
    async def store(self, etcd: EtcdServer) -> AsyncIterator[Store]:
        store = store_of(etcd)
        yield store
        await store.close()


class TestMemory(StoreContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        store = MemoryStore(MemoryEtcd(SystemClock()))
        yield store
        await store.close()


async def test_a_wrong_address_is_one_line_that_says_what_to_do() -> None:
    store = EtcdStore(["127.0.0.1:1"], SystemClock(), random.Random(1), EtcdSettings(retry_for_s=0.5))
    with pytest.raises(StoreUnavailable) as caught:
        await store.get("/x")
    await store.close()
    assert "127.0.0.1:1" in str(caught.value)
    assert "--etcd" in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_client_goes_on_to_the_next_endpoint_when_one_does_not_answer(etcd: EtcdServer) -> None:
    store = EtcdStore(["127.0.0.1:1", etcd.endpoint], SystemClock(), random.Random(1))
    for _ in range(4):
        assert await store.get("/test/nothing") is None
    await store.close()
