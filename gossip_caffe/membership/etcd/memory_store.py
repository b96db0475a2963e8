"""The in-memory twin of the store: one client of a ``MemoryEtcd``, with faults on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

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


class MemoryStore:
    """One client of a ``MemoryEtcd``.

    ``lose_replies``: this many of the next transactions are applied and then raise Ambiguous. ``drop_requests``: this
    many of the next transactions are not applied and raise Ambiguous.
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
        """The key's newest value, or None."""
        self._reach()
        return self._server.keys.get(key)

    async def list(self, prefix: str, *, limit: int = 0) -> Listing:
        """All keys under the prefix with their values."""
        self._reach()
        listing = self._server.listing(prefix)
        items = listing.items[:limit] if limit else listing.items
        return Listing(listing.revision, items)

    async def keys(self, prefix: str) -> tuple[str, ...]:
        """All keys under the prefix without values."""
        self._reach()
        return tuple(self._server.under(prefix))

    async def count(self, prefix: str) -> int:
        """The number of keys under the prefix."""
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
        """Create a lease."""
        self._reach()
        return self._server.grant(ttl_s)

    async def renew(self, lease_id: int) -> float:
        """Renew a lease. Returns its time to live (s); 0.0 when it does not exist."""
        self._reach()
        return self._server.renew(lease_id)

    async def revoke(self, lease_id: int) -> None:
        """End a lease, and delete the keys that are attached to it."""
        self._reach()
        self._server.revoke(lease_id)

    async def watch(self, prefix: str) -> AsyncIterator[WatchItem]:
        """All keys under the prefix, then every change."""
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
        """Disconnect this client for good, as when its machine dies: no later request arrives, and its watches end."""
        self._closed = True
        self._server.wake_all()

    async def compact(self, revision: int) -> None:
        """Discard the history before a revision."""
        self._reach()
        self._server.compact(revision)

    async def refusal(self) -> str:
        """Why the server refuses every write; "" while it accepts them."""
        return str(write_refused(self._server.refuses)) if self._server.refuses else ""

    async def close(self) -> None:
        """End all watches; later requests raise StoreUnavailable."""
        self.cut_off()
