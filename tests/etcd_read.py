"""One question to a running etcd, for tests that are not asynchronous themselves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gossip_caffe.clock import SystemClock
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.etcd.store import Store

T = TypeVar("T")


def asked(endpoint: str, question: Callable[[Store], Awaitable[T]]) -> T:
    """What ``question`` finds out over a connection of its own."""

    async def ask() -> T:
        store = EtcdStore([endpoint], SystemClock(), random.Random(1))
        try:
            return await question(store)
        finally:
            await store.close()

    return asyncio.run(ask())
