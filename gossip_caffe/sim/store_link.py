"""A simulated peer's way to the store: it takes time, breaks, and then nobody knows what was still applied."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from gossip_caffe.errors import Ambiguous, StoreUnavailable
from gossip_caffe.membership.memory_etcd import MemoryEtcd
from gossip_caffe.membership.store import (
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
"""As long as the client of the real store tries again."""
LOOK_EVERY_S = 0.25
TOGETHER_FROM_S = 1.0
TOGETHER_SHARE = 0.05
"""Where no sleep is shorter than a second, news come together that come within this share of such a sleep."""


class StoreLink:
    """The ``Store`` of one peer. ``cut_off``: its machine has died."""

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
                # The request may have been on its way: the client cannot tell, and does not send it again.
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
        """The key's newest value."""
        return await self._call(lambda: self._server.keys.get(key))

    async def list(self, prefix: str, *, limit: int = 0) -> Listing:
        """What is under the prefix."""

        def work() -> Listing:
            listing = self._server.listing(prefix)
            return Listing(listing.revision, listing.items[:limit]) if limit else listing

        return await self._call(work)

    async def keys(self, prefix: str) -> tuple[str, ...]:
        """The keys under the prefix."""
        return await self._call(lambda: tuple(self._server.under(prefix)))

    async def count(self, prefix: str) -> int:
        """How many keys are under the prefix."""
        return await self._call(lambda: self._server.count(prefix))

    async def transact(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> TxnResult:
        """Apply all operations if all guards hold."""
        checked_size(guards, operations)
        return await self._call(lambda: self._server.transact(guards, operations), writes=True)

    async def grant(self, ttl_s: float) -> Lease:
        """Make a lease."""
        return await self._call(lambda: self._server.grant(ttl_s))

    async def renew(self, lease_id: int) -> float:
        """Renew a lease."""
        return await self._call(lambda: self._server.renew(lease_id))

    async def revoke(self, lease_id: int) -> None:
        """End a lease."""
        await self._call(lambda: self._server.revoke(lease_id))

    async def watch(self, prefix: str) -> AsyncIterator[WatchItem]:
        """Everything under the prefix, then every change; nothing comes while the store is out of reach."""
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
                    # As ``_away`` says, in place: a thousand who join bring each other four million of these.
                    while news and not (self._dead or machine.store_cut or server.unavailable):
                        yield news.popleft()
                else:
                    await server.something(watcher)
                    if machine.grain_s >= TOGETHER_FROM_S:
                        await sleep(machine.grain_s * TOGETHER_SHARE)
        finally:
            server.forget(watcher)

    def cut_off(self) -> None:
        """Nothing that is asked for arrives any more."""
        self._dead = True
        self._server.wake_all()

    async def close(self) -> None:
        """End all watches."""
        self.cut_off()
