"""Both stores keep the one contract: etcd's and the one in memory."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator

import pytest

from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.errors import StoreUnavailable
from gossip_caffe.membership.etcd.etcd_channel import EtcdConnection, EtcdSettings
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.etcd.etcd_watch_state import WatchState
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.etcd.store import Put, Store
from gossip_caffe.wire import etcd_pb2 as pb
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


async def test_a_watch_that_comes_back_after_more_than_one_reply_takes_gets_all_of_it_in_order(
    etcd: EtcdServer, prefix: str
) -> None:
    """As after a stream that broke: etcd sends what happened since in as few replies as it can."""
    store = store_of(etcd)
    begun = (await store.transact([], [Put(f"{prefix}before", b"")])).revision
    keys = [f"{prefix}{n:02d}" for n in range(16)]
    for key in keys:
        await store.transact([], [Put(key, b"x" * 1_400_000), Put(f"{key}-too", b"")])
    watch = WatchState(prefix, next_revision=begun + 1)
    connection = EtcdConnection([etcd.endpoint], SystemClock(), random.Random(1))
    call = connection.channel().stream_stream(
        "/etcdserverpb.Watch/Watch",
        request_serializer=pb.WatchRequest.SerializeToString,
        response_deserializer=pb.WatchResponse.FromString,
    )()
    await call.write(watch.create_request())
    given: list[str] = []
    async with asyncio.timeout(60):
        while len(given) < 2 * len(keys):
            given += [event.kv.key.decode() for event in (await call.read()).events]
    assert given == sorted(given)
    assert set(given) == {name for key in keys for name in (key, f"{key}-too")}
    call.cancel()
    await connection.close()
    await store.close()
