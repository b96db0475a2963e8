"""An etcd in memory: one history of revisions, leases and watches, on a clock that is passed in."""

from __future__ import annotations

import asyncio
import heapq
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gossip_caffe.background import within
from gossip_caffe.clock import Clock
from gossip_caffe.errors import StoreError
from gossip_caffe.membership.etcd.refusals import write_refused
from gossip_caffe.membership.etcd.store import (
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
    TxnResult,
)

_LAST = "\U0010ffff"
"""A character that sorts after all characters of keys."""
_LOOK_S = 0.01
"""A lease ends at most this many seconds late."""


@dataclass(slots=True)
class _Granted:
    ttl_s: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Memory:
    """The state of a server at one revision. Leases are stored by id, with their granted time (s)."""

    revision: int
    keys: Mapping[str, KeyValue]
    leases: Mapping[int, float]


@dataclass(eq=False, slots=True)
class _Watcher:
    """One watch: the changes that it has not yet delivered. ``behind``: it must list all keys again."""

    prefix: str
    behind: bool = True
    news: deque[Changed] = field(default_factory=deque)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        self.changed.set()


class MemoryEtcd:
    """The server: one history of revisions, shared by any number of ``MemoryStore`` clients."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.revision = 1
        self._compacted = 0
        self.keys: dict[str, KeyValue] = {}
        self._refuses = ""
        self._refused = False
        self._unavailable = False
        self._expiring = False
        self._sorted: list[str] = []
        self._watchers: dict[str, dict[_Watcher, None]] = {}
        self._lengths: tuple[int, ...] = ()
        """The lengths of all watched prefixes."""
        self._leases: dict[int, _Granted] = {}
        self._hanging: dict[int, dict[str, None]] = {}
        """Lease → the keys that are attached to it."""
        self._due: list[tuple[float, int]] = []
        """A heap of (time of end, lease). The entry of a renewed lease is pushed again with its new time."""
        self._next_lease = 1

    @property
    def unavailable(self) -> bool:
        """While True, no request is answered and no watch delivers anything."""
        return self._unavailable

    @unavailable.setter
    def unavailable(self, away: bool) -> None:
        self._unavailable = away
        self.wake_all()

    @property
    def refuses(self) -> str:
        """The reason why every write is refused; "" while writes are accepted. Leases are renewed and end all the same.

        As with etcd, the first refused write is applied: it is the one that uses up the quota.
        """
        return self._refuses

    @refuses.setter
    def refuses(self, why: str) -> None:
        self._refuses, self._refused = why, False

    def tick(self) -> None:
        """End every lease whose time has come. Each access calls this; a test may call it after it moved the clock."""
        now = self.clock.monotonic()
        while self._due and self._due[0][0] <= now:
            _, lease = heapq.heappop(self._due)
            granted = self._leases.get(lease)
            if granted is None:
                continue
            if granted.expires_at <= now:
                self.revoke(lease)
            else:
                heapq.heappush(self._due, (granted.expires_at, lease))

    def give_time(self) -> None:
        """Give every lease its full time again, as a new etcd leader does."""
        now = self.clock.monotonic()
        for granted in self._leases.values():
            granted.expires_at = now + granted.ttl_s

    async def expire(self) -> None:
        """End leases when they are due; never returns. While this runs, watches need no timers of their own."""
        self._expiring = True
        while True:
            due = self._due[0][0] if self._due else self.clock.monotonic() + 1.0
            await self._sleep(max(_LOOK_S, due - self.clock.monotonic()))
            if not self.unavailable:
                self.tick()

    async def something(self, watcher: _Watcher) -> None:
        """Wait until a watched key has changed, or until the next lease is due to end."""
        if self._expiring:
            await watcher.changed.wait()
            return
        waits = [watcher.changed.wait()]
        if self._leases:
            due = min(granted.expires_at for granted in self._leases.values())
            waits.append(self._sleep(due - self.clock.monotonic()))
        async with within(*waits) as begun:
            await asyncio.wait(begun, return_when=asyncio.FIRST_COMPLETED)

    async def _sleep(self, seconds: float) -> Literal[True]:
        await self.clock.sleep(max(0.0, seconds))
        return True

    def watcher(self, prefix: str) -> _Watcher:
        """Start a watch; ``forget`` ends it."""
        watcher = _Watcher(prefix)
        self._watchers.setdefault(prefix, {})[watcher] = None
        if len(prefix) not in self._lengths:
            self._lengths = (*self._lengths, len(prefix))
        return watcher

    def forget(self, watcher: _Watcher) -> None:
        """End a watch."""
        self._watchers[watcher.prefix].pop(watcher, None)
        if not self._watchers[watcher.prefix]:
            del self._watchers[watcher.prefix]

    def grant(self, ttl_s: float) -> Lease:
        """Create a lease. Raises WritesRefused."""
        self._take_writes()
        lease = Lease(self._next_lease, ttl_s)
        self._next_lease += 1
        self._leases[lease.id] = granted = _Granted(ttl_s, self.clock.monotonic() + ttl_s)
        heapq.heappush(self._due, (granted.expires_at, lease.id))
        return lease

    def renew(self, lease_id: int) -> float:
        """Give a lease its full time again. Returns that time (s); 0.0 when the lease does not exist."""
        granted = self._leases.get(lease_id)
        if granted is None:
            return 0.0
        granted.expires_at = self.clock.monotonic() + granted.ttl_s
        return granted.ttl_s

    def revoke(self, lease_id: int) -> None:
        """End a lease and delete its keys at one revision."""
        if self._leases.pop(lease_id, None) is not None:
            self._write([Delete(key) for key in self._hanging.get(lease_id, {})])

    def listing(self, prefix: str) -> Listing:
        """All keys under a prefix at the current revision."""
        return Listing(self.revision, tuple(self.keys[key] for key in self.under(prefix)))

    def under(self, prefix: str) -> list[str]:
        """The keys under a prefix, sorted."""
        return self._sorted[slice(*self._range(prefix))]

    def count(self, prefix: str) -> int:
        """The number of keys under a prefix."""
        first, last = self._range(prefix)
        return last - first

    def _range(self, prefix: str) -> tuple[int, int]:
        return bisect_left(self._sorted, prefix), bisect_left(self._sorted, prefix + _LAST)

    def transact(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> TxnResult:
        """Check the guards and apply the operations at one revision. Raises WritesRefused."""
        if self._refuses and not self._refused and "space" in self._refuses:
            self._refused = True
            self._transact(guards, operations)
        self._take_writes()
        return self._transact(guards, operations)

    def _transact(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> TxnResult:
        for operation in operations:
            if isinstance(operation, Put) and operation.lease and operation.lease not in self._leases:
                # etcd refuses a put on an unknown lease, and with it the whole transaction.
                return TxnResult(False, self.revision, self._found(guards))
        if not all(self._holds(guard) for guard in guards):
            return TxnResult(False, self.revision, self._found(guards))
        self._write(operations)
        return TxnResult(True, self.revision)

    def _take_writes(self) -> None:
        if self.refuses:
            raise write_refused(self.refuses)

    def compact(self, revision: int = 0) -> None:
        """Discard the history before a revision; 0 discards all history so far.

        A watch that is further behind must list again.

        Raises StoreError for a revision that is already discarded, or is in the future.
        """
        if revision and not self._compacted < revision <= self.revision:
            state = "a future revision" if revision > self.revision else "compacted"
            raise StoreError(f"etcd in memory refused a compaction: {revision} is {state}")
        self._compacted = revision or self.revision
        for watcher in self._all_watchers():
            if watcher.news and (not revision or watcher.news[0].revision < revision):
                watcher.news.clear()
                watcher.behind = True

    def memory(self) -> Memory:
        """A copy of the current state, for ``go_back``."""
        leases = {lease: granted.ttl_s for lease, granted in self._leases.items()}
        return Memory(self.revision, dict(self.keys), leases)

    def go_back(self, memory: Memory) -> None:
        """Return to an earlier state, like a server that is restored from a backup or loses the end of its log.

        The lost revisions are assigned again, to other writes. A lease that existed in the earlier state exists again,
        with its full time. The id of a lost lease is never assigned again. Every watch lists all keys again.
        """
        self.revision, self.keys, self._sorted = memory.revision, dict(memory.keys), sorted(memory.keys)
        self._compacted = min(self._compacted, self.revision)
        self._leases, self._hanging, self._due = {}, {}, []
        for lease, ttl_s in memory.leases.items():
            self._leases[lease] = _Granted(ttl_s, self.clock.monotonic() + ttl_s)
            heapq.heappush(self._due, (self._leases[lease].expires_at, lease))
        for key, item in self.keys.items():
            self._hang(key, 0, item.lease)
        for watcher in self._all_watchers():
            watcher.news.clear()
            watcher.behind = True
        self.wake_all()

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
                    if old is None:
                        insort(self._sorted, key)
                    created = old.create_revision if old else revision
                    self.keys[key] = KeyValue(key, value, created, revision, lease)
                    self._hang(key, old.lease if old else 0, lease)
                    changes.append(Changed(key, self.keys[key], revision))
                case Delete(key):
                    self._delete(key, revision, changes)
                case DeletePrefix(prefix):
                    for key in self.under(prefix):
                        self._delete(key, revision, changes)
        if changes:
            self.revision = revision
            for change in changes:
                self._tell(change)

    def _delete(self, key: str, revision: int, changes: list[Changed]) -> None:
        if (old := self.keys.pop(key, None)) is not None:
            self._hang(key, old.lease, 0)
            del self._sorted[bisect_left(self._sorted, key)]
            changes.append(Changed(key, None, revision))

    def _hang(self, key: str, before: int, lease: int) -> None:
        """Record the lease to which a key is now attached; 0: no lease."""
        if before == lease:
            return
        if before:
            del self._hanging[before][key]
            if not self._hanging[before]:
                del self._hanging[before]
        if lease:
            self._hanging.setdefault(lease, {})[key] = None

    def _tell(self, change: Changed) -> None:
        for length in self._lengths:
            for watcher in self._watchers.get(change.key[:length], ()):
                if not watcher.behind:
                    watcher.news.append(change)
                watcher.wake()

    def _all_watchers(self) -> list[_Watcher]:
        return [watcher for watchers in self._watchers.values() for watcher in watchers]

    def wake_all(self) -> None:
        """Wake every watch."""
        for watcher in self._all_watchers():
            watcher.wake()
