"""The store's in-memory twin: one client of a ``MemoryEtcd``, and faults on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

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


class MemoryStore:
    """One client.

    ``lose_replies`` and ``drop_requests`` count down: that many transactions to come are applied, or not, and raise
    Ambiguous either way.
    """

    def __init__(self, server: MemoryEtcd) -> None:
        self._server = server
        self.lose_replies = 0
        self.drop_requests = 0
        self._closed = False

    def _reach(self) -> None:
        if self._server.unavailable or self._closed:
            raise StoreUnavailable("the in-memory store is cut off")
        self._server.tick()

    async def get(self, key: str) -> KeyValue | None:
        """The key's newest value."""
        self._reach()
        return self._server.keys.get(key)

    async def list(self, prefix: str, *, limit: int = 0) -> Listing:
        """What is under the prefix."""
        self._reach()
        listing = self._server.listing(prefix)
        items = listing.items[:limit] if limit else listing.items
        return Listing(listing.revision, items)

    async def keys(self, prefix: str) -> tuple[str, ...]:
        """The keys under the prefix."""
        self._reach()
        return tuple(self._server.under(prefix))

    async def count(self, prefix: str) -> int:
        """How many keys are under the prefix."""
        self._reach()
        return self._server.count(prefix)

    async def transact(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> TxnResult:
        """Apply all operations if all guards hold."""
        checked_size(guards, operations)
        self._reach()
        if self.drop_requests:
            self.drop_requests -= 1
            raise Ambiguous("the request was lost (or its reply)")
        result = self._server.transact(guards, operations)
        if self.lose_replies:
            self.lose_replies -= 1
            raise Ambiguous("the reply was lost (or the request)")
        return result

    async def grant(self, ttl_s: float) -> Lease:
        """Make a lease."""
        self._reach()
        return self._server.grant(ttl_s)

    async def renew(self, lease_id: int) -> float:
        """Renew a lease."""
        self._reach()
        return self._server.renew(lease_id)

    async def revoke(self, lease_id: int) -> None:
        """End a lease."""
        self._reach()
        self._server.revoke(lease_id)

    async def watch(self, prefix: str) -> AsyncIterator[WatchItem]:
        """Everything under the prefix, then every change."""
        server = self._server
        watcher = server.watcher(prefix)
        try:
            while not self._closed:
                watcher.changed.clear()
                if not server.unavailable:
                    server.tick()
                    if watcher.behind:
                        watcher.behind = False
                        yield Reset(server.listing(prefix))
                        continue
                    if watcher.news:
                        yield watcher.news.popleft()
                        continue
                await server.something(watcher)
        finally:
            server.forget(watcher)

    def cut_off(self) -> None:
        """Nothing that this client asks for arrives any more, as when its machine dies; watches end."""
        self._closed = True
        self._server.wake_all()

    async def close(self) -> None:
        """End all watches."""
        self.cut_off()
