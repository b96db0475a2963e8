"""A simulated peer's connection to the store: it has latency, and it breaks; then the outcome of a write is unknown."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from gossip_caffe.errors import Ambiguous, StoreUnavailable
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.refusals import write_refused
from gossip_caffe.membership.etcd.store import (
    Guard,
    KeyValue,
    Lease,
    Listing,
    Operation,
    Reset,
    TxnResult,
    WatchItem,
    checked_size,
)
from gossip_caffe.sim.machine import Machine
from gossip_caffe.sim.virtual_time import sleep

T = TypeVar("T")

_SHORTEST_S, _SPREAD_S = 0.001, 0.003
RETRY_FOR_S = 8.0
"""Seconds of retries, as many as the real store's client makes."""
LOOK_EVERY_S = 0.25
TOGETHER_FROM_S = 1.0
TOGETHER_SHARE = 0.05
"""With a coarse timer, changes within this share of the shortest sleep arrive together."""


class StoreLink:
    """The ``Store`` of one peer. ``cut_off``: its machine has failed."""

    def __init__(self, server: MemoryEtcd, machine: Machine, rng: random.Random) -> None:
        self._server = server
        self._machine = machine
        self._rng = rng
        self._dead = False

    @property
    def _away(self) -> bool:
        return self._server.unavailable or self._machine.store_cut or self._dead

    def _on_the_way_s(self) -> float:
        return _SHORTEST_S + _SPREAD_S * self._rng.random()

    async def _call(self, work: Callable[[], T], *, writes: bool = False) -> T:
        machine, server = self._machine, self._server
        await sleep(self._on_the_way_s())
        tried_s = 0.0
        while self._away:
            if self._dead or tried_s >= RETRY_FOR_S:
                raise StoreUnavailable("the store is away")
            if writes and self._rng.random() < 0.5:
                # The request may be in flight: the client cannot know that, and does not send it again.
                await sleep(LOOK_EVERY_S)
                raise Ambiguous("the request was lost (or its reply)")
            await sleep(LOOK_EVERY_S)
            tried_s += LOOK_EVERY_S
        server.tick()
        result = work()
        await sleep(self._on_the_way_s())
        if self._away:
            raise Ambiguous("the reply was lost") if writes else StoreUnavailable("the reply was lost")
        if machine.frozen:
            await machine.awake()
        return result

    async def get(self, key: str) -> KeyValue | None:
        """The key's newest value, or None."""
        return await self._call(lambda: self._server.keys.get(key))

    async def list(self, prefix: str, *, limit: int = 0) -> Listing:
        """All keys under the prefix with their values."""

        def work() -> Listing:
            listing = self._server.listing(prefix)
            return Listing(listing.revision, listing.items[:limit]) if limit else listing

        return await self._call(work)

    async def keys(self, prefix: str) -> tuple[str, ...]:
        """All keys under the prefix without values."""
        return await self._call(lambda: tuple(self._server.under(prefix)))

    async def count(self, prefix: str) -> int:
        """The number of keys under the prefix."""
        return await self._call(lambda: self._server.count(prefix))

    async def transact(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> TxnResult:
        """Apply all operations if all guards hold."""
        checked_size(guards, operations)
        return await self._call(lambda: self._server.transact(guards, operations), writes=True)

    async def grant(self, ttl_s: float) -> Lease:
        """Create a lease."""
        return await self._call(lambda: self._server.grant(ttl_s))

    async def renew(self, lease_id: int) -> float:
        """Renew a lease. Returns its time to live (s); 0.0 when it does not exist."""
        return await self._call(lambda: self._server.renew(lease_id))

    async def revoke(self, lease_id: int) -> None:
        """End a lease, and delete the keys that are attached to it."""
        await self._call(lambda: self._server.revoke(lease_id))

    async def watch(self, prefix: str) -> AsyncIterator[WatchItem]:
        """All keys under the prefix, then every change. Changes are delayed while the store cannot be reached."""
        server, machine = self._server, self._machine
        watcher = server.watcher(prefix)
        news = watcher.news
        try:
            while True:
                watcher.changed.clear()
                while self._away:
                    if self._dead:
                        return
                    await sleep(LOOK_EVERY_S)
                if machine.frozen:
                    await machine.awake()
                server.tick()
                if watcher.behind:
                    watcher.behind = False
                    yield Reset(server.listing(prefix))
                elif news:
                    # This is ``_away`` inlined: a thousand joining peers send each other four million of these.
                    while news and not (self._dead or machine.store_cut or server.unavailable):
                        yield news.popleft()
                else:
                    await server.something(watcher)
                    if machine.grain_s >= TOGETHER_FROM_S:
                        await sleep(machine.grain_s * TOGETHER_SHARE)
        finally:
            server.forget(watcher)

    def cut_off(self) -> None:
        """Disconnect for good: no later request arrives."""
        self._dead = True
        self._server.wake_all()

    async def compact(self, revision: int) -> None:
        """Discard the history before a revision."""
        await self._call(lambda: self._server.compact(revision))

    async def refusal(self) -> str:
        """Why the store refuses every write; "" while it accepts them."""
        return str(write_refused(self._server.refuses)) if self._server.refuses else ""

    async def close(self) -> None:
        """End all watches."""
        self.cut_off()
