"""Watches of a real etcd: through any number of its deaths, behind its own proxy, and where they are not allowed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gossip_caffe.background import checked_by_owner, owned
from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.etcd_binary import find_etcd
from gossip_caffe.cluster.etcd.ports import held_port
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.errors import StoreError, StoreRefused
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.etcd.store import Delete, Operation, Put, Reset
from gossip_caffe.system.processes import spawn

pytestmark = pytest.mark.integration

HUBS = 60
RESTARTS = int(os.environ.get("GOSSIP_CAFFE_WATCH_RESTARTS", "60"))
CHECK_EVERY = 20
DEADLINE_S = 60.0
"""Others may want this machine; what it takes without them is printed."""


class Watching:
    """One client, and what it believes to be under a prefix."""

    def __init__(self, endpoint: str, prefix: str, seed: int) -> None:
        self.believes: set[str] = set()
        self.news = self.resets = 0
        self.store = EtcdStore([endpoint], SystemClock(), random.Random(seed))
        self.task = owned(self._follow(prefix), f"client {seed}", checked_by_owner)

    async def _follow(self, prefix: str) -> None:
        async for item in self.store.watch(prefix):
            if isinstance(item, Reset):
                self.resets += 1
                self.believes = {entry.key for entry in item.listing.items}
            else:
                self.news += 1
                (self.believes.discard if item.value is None else self.believes.add)(item.key)

    async def until(self, *keys: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.believes != set(keys) or not self.resets:
                assert not self.task.done(), self.task.exception()
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})
        await self.store.close()


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path / "etcd")
    server.start()
    yield server
    server.stop()


async def write(store: EtcdStore, operation: Operation) -> None:
    """Until it is written: an etcd that was just started may have no leader yet."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                assert (await store.transact([], [operation])).succeeded
                return
            except StoreError:
                await asyncio.sleep(0.02)


@pytest.mark.timeout(300 + 5 * RESTARTS)
async def test_every_watch_outlives_every_death_of_etcd(etcd: EtcdServer) -> None:
    """The end of a stream meets each watch in whatever it is just doing: among so many ends it does in all of them."""
    rng = random.Random(1)
    writer = EtcdStore([etcd.endpoint], SystemClock(), rng)
    watching = [Watching(etcd.endpoint, "/t/", seed) for seed in range(HUBS)]
    slowest_s = 0.0
    try:
        before = "/t/0"
        await write(writer, Put(before, b""))
        for client in watching:
            await client.until(before)
        for restart in range(1, RESTARTS + 1):
            etcd.kill()
            await asyncio.sleep(rng.uniform(0.0, 0.3))
            await asyncio.to_thread(etcd.start)
            if restart % CHECK_EVERY and restart != RESTARTS:
                await asyncio.sleep(rng.uniform(0.0, 1.0))
                continue
            key = f"/t/{restart}"
            await write(writer, Put(key, b""))
            await write(writer, Delete(before))
            began, before = time.monotonic(), key
            for client in watching:
                await client.until(key)
            slowest_s = max(slowest_s, time.monotonic() - began)
        assert not [client for client in watching if client.task.done()]
    finally:
        for client in watching:
            await client.close()
        await writer.close()
    print(
        f"{HUBS} watches, {RESTARTS} restarts: the last to see a new key did so {slowest_s:.1f} s after it was written"
    )


@pytest.fixture
def proxy(etcd: EtcdServer, tmp_path: Path) -> Iterator[str]:
    held = held_port()
    address = f"127.0.0.1:{held.getsockname()[1]}"
    command = [str(find_etcd()), "grpc-proxy", "start", f"--endpoints={etcd.endpoint}"]
    command += [f"--listen-addr={address}", f"--data-dir={tmp_path / 'proxy'}"]
    with (tmp_path / "proxy.log").open("wb") as log:
        process: subprocess.Popen[bytes] = spawn(command, stdout=log, stderr=log)
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", held.getsockname()[1])) == 0:
                break
        time.sleep(0.05)
    yield address
    process.send_signal(signal.SIGKILL)
    process.wait()
    held.close()


@pytest.mark.timeout(300)
async def test_behind_the_proxy_of_etcd_every_change_is_seen(etcd: EtcdServer, proxy: str) -> None:
    """The proxy numbers watches by itself, whatever a client asks for."""
    writer = EtcdStore([etcd.endpoint], SystemClock(), random.Random(1))
    one, other = Watching(proxy, "/t/", 2), Watching(proxy, "/t/", 3)
    elsewhere = Watching(proxy, "/u/", 4)
    both = EtcdStore([proxy], SystemClock(), random.Random(5))

    async def second() -> None:  # a second watch of one client, on its one stream
        async for item in both.watch("/u/"):
            seen.append(type(item).__name__)

    async def first() -> None:
        async for _ in both.watch("/t/"):
            pass

    seen: list[str] = []
    tasks = [owned(work, "both", checked_by_owner) for work in (first(), second())]
    try:
        for client in (one, other, elsewhere):
            await client.until()
        for number in range(5):
            await write(writer, Put(f"/t/{number}", b"x"))
            await one.until(*(f"/t/{earlier}" for earlier in range(number + 1)))
        await write(writer, Delete("/t/0"))
        await write(writer, Put("/u/1", b"x"))
        await one.until("/t/1", "/t/2", "/t/3", "/t/4")
        await other.until("/t/1", "/t/2", "/t/3", "/t/4")
        await elsewhere.until("/u/1")
        async with asyncio.timeout(DEADLINE_S):
            while seen != ["Reset", "Changed"]:
                await asyncio.sleep(0.02)
        await asyncio.sleep(10.0)  # quiet for longer than a stream that is dead may be
        await write(writer, Put("/u/2", b"x"))
        await elsewhere.until("/u/1", "/u/2")
        assert (one.news, other.news, elsewhere.news) == (6, 6, 2)
        assert (one.resets, other.resets, elsewhere.resets) == (1, 1, 1)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for client in (one, other, elsewhere):
            await client.close()
        await both.close()
        await writer.close()


@pytest.mark.timeout(120)
async def test_a_watch_that_etcd_does_not_allow_is_refused_with_a_reason_and_a_remedy(
    etcd: EtcdServer,
) -> None:
    store = EtcdStore([etcd.endpoint], SystemClock(), random.Random(1))
    allowed = Watching(etcd.endpoint, "/t/", 2)
    await allowed.until()
    control = [str(find_etcd().with_name("etcdctl")), f"--endpoints={etcd.endpoint}"]
    for words in (["user", "add", "root:secret"], ["user", "grant-role", "root", "root"], ["auth", "enable"]):
        subprocess.run([*control, *words], check=True, capture_output=True)
    try:
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(StoreRefused) as caught:
                await anext(store.watch("/t/"))
        assert etcd.endpoint in caught.value.message
        assert caught.value.remedy
    finally:
        await allowed.close()
        await store.close()
