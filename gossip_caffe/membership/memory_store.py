"""The store's in-memory twin: the same semantics as etcd's on a clock that is passed in, and faults on demand."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal

from gossip_caffe.clock import Clock
from gossip_caffe.errors import Ambiguous, StoreUnavailable
from gossip_caffe.membership.store import (
    Absent,
    Changed,
    CreatedAt,
    Delete,
    DeletePrefix,
    Exists,
    Guard,
    KeyValue,
    Lease,
    Listing,
    ModifiedAt,
    Operation,
    Put,
    Reset,
    TxnResult,
    WatchItem,
    checked_size,
)


@dataclass(slots=True)
class _Granted:
    ttl_s: float
    expires_at: float


class MemoryEtcd:
    """The server: one history of revisions, shared by any number of ``MemoryStore`` clients."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.revision = 1
        self.keys: dict[str, KeyValue] = {}
        self.history: list[Changed] = []
        self.compacted = 0
        self.changed = asyncio.Event()
        self.unavailable = False
        self._leases: dict[int, _Granted] = {}
        self._next_lease = 1

    def tick(self) -> None:
        """Let every lease end whose time has come. Each access does it; a test may call it to make time pass."""
        now = self.clock.monotonic()
        for lease in [lease for lease, granted in self._leases.items() if granted.expires_at <= now]:
            self.revoke(lease)

    async def something(self, changed: asyncio.Event) -> None:
        """Return when a key has changed, or when the next lease is due to end."""
        waits = [asyncio.ensure_future(changed.wait())]
        if self._leases:
            due = min(granted.expires_at for granted in self._leases.values())
            waits.append(asyncio.ensure_future(self._sleep(due - self.clock.monotonic())))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _sleep(self, seconds: float) -> Literal[True]:
        await self.clock.sleep(max(0.0, seconds))
        return True

    def grant(self, ttl_s: float) -> Lease:
        """Make a lease."""
        lease = Lease(self._next_lease, ttl_s)
        self._next_lease += 1
        self._leases[lease.id] = _Granted(ttl_s, self.clock.monotonic() + ttl_s)
        return lease

    def renew(self, lease_id: int) -> float:
        """Give a lease its whole time again; 0.0 when it is gone."""
        granted = self._leases.get(lease_id)
        if granted is None:
            return 0.0
        granted.expires_at = self.clock.monotonic() + granted.ttl_s
        return granted.ttl_s

    def revoke(self, lease_id: int) -> None:
        """End a lease and delete its keys at one revision."""
        if self._leases.pop(lease_id, None) is not None:
            self._write([Delete(key) for key, item in self.keys.items() if item.lease == lease_id])

    def listing(self, prefix: str) -> Listing:
        """Everything under a prefix, now."""
        items = tuple(self.keys[key] for key in sorted(self.keys) if key.startswith(prefix))
        return Listing(self.revision, items)

    def transact(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> TxnResult:
        """Check and apply at one revision."""
        for operation in operations:
            if isinstance(operation, Put) and operation.lease and operation.lease not in self._leases:
                # etcd refuses a put on a lease that it does not know, and with it the transaction
                return TxnResult(False, self.revision, self._found(guards))
        if not all(self._holds(guard) for guard in guards):
            return TxnResult(False, self.revision, self._found(guards))
        self._write(operations)
        return TxnResult(True, self.revision)

    def compact(self) -> None:
        """Forget the history so far: a watch that is behind must start over."""
        self.compacted = self.revision
        self.history.clear()
        self._wake()

    def _found(self, guards: Sequence[Guard]) -> tuple[KeyValue, ...]:
        return tuple(self.keys[guard.key] for guard in guards if guard.key in self.keys)

    def _holds(self, guard: Guard) -> bool:
        item = self.keys.get(guard.key)
        match guard:
            case Absent():
                return item is None
            case Exists():
                return item is not None
            case CreatedAt(_, revision):
                return item is not None and item.create_revision == revision
            case ModifiedAt(_, revision):
                return item is not None and item.mod_revision == revision

    def _write(self, operations: Sequence[Operation]) -> None:
        revision = self.revision + 1
        changes: list[Changed] = []
        for operation in operations:
            match operation:
                case Put(key, value, lease):
                    old = self.keys.get(key)
                    created = old.create_revision if old else revision
                    self.keys[key] = KeyValue(key, value, created, revision, lease)
                    changes.append(Changed(key, self.keys[key], revision))
                case Delete(key):
                    if self.keys.pop(key, None) is not None:
                        changes.append(Changed(key, None, revision))
                case DeletePrefix(prefix):
                    for key in [key for key in self.keys if key.startswith(prefix)]:
                        del self.keys[key]
                        changes.append(Changed(key, None, revision))
        if changes:
            self.revision = revision
            self.history += changes
            self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class MemoryStore:
    """One client of a ``MemoryEtcd``.

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
        return tuple(item.key for item in self._server.listing(prefix).items)

    async def count(self, prefix: str) -> int:
        """How many keys are under the prefix."""
        self._reach()
        return len(self._server.listing(prefix).items)

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
        seen = -1
        while not self._closed:
            server = self._server
            changed = server.changed
            if not server.unavailable:
                server.tick()
                changed = server.changed
                if seen < server.compacted:
                    listing = server.listing(prefix)
                    seen = listing.revision
                    yield Reset(listing)
                    continue
                news = server.history[
                    bisect_right(server.history, seen, key=lambda change: change.revision) :
                ]
                seen = server.revision
                for change in news:
                    if change.key.startswith(prefix):
                        yield change
                if news:
                    continue
            await server.something(changed)

    def cut_off(self) -> None:
        """Nothing that this client asks for arrives any more, as when its machine dies; watches end."""
        self._closed = True
        self._server._wake()

    async def close(self) -> None:
        """End all watches."""
        self.cut_off()
