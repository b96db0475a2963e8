"""An etcd in memory: one history of revisions, leases and watches, on a clock that is passed in."""

from __future__ import annotations

import asyncio
import heapq
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gossip_caffe.clock import Clock
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
    TxnResult,
)

_LAST = "\U0010ffff"
"""No key has a character after this one."""
_LOOK_S = 0.01
"""Leases end so late at most."""


@dataclass(slots=True)
class _Granted:
    ttl_s: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Memory:
    """What a server knew at one revision; leases by id, with what they were granted (s)."""

    revision: int
    keys: Mapping[str, KeyValue]
    leases: Mapping[int, float]


@dataclass(eq=False, slots=True)
class _Watcher:
    """One watch: what it has not yielded yet. ``behind``: it must list everything anew."""

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
        self.keys: dict[str, KeyValue] = {}
        self._unavailable = False
        self._expiring = False
        self._sorted: list[str] = []
        self._watchers: dict[str, dict[_Watcher, None]] = {}
        self._lengths: tuple[int, ...] = ()
        """Of all prefixes that are watched."""
        self._leases: dict[int, _Granted] = {}
        self._hanging: dict[int, dict[str, None]] = {}
        """The keys on each lease."""
        self._due: list[tuple[float, int]] = []
        """When each lease would end if it was not renewed; those that were come again, later."""
        self._next_lease = 1

    @property
    def unavailable(self) -> bool:
        """While True nobody is answered, and no watch hears of anything."""
        return self._unavailable

    @unavailable.setter
    def unavailable(self, away: bool) -> None:
        self._unavailable = away
        self.wake_all()

    def tick(self) -> None:
        """Let every lease end whose time has come. Each access does it; a test may call it to make time pass."""
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
        """Every lease has its whole time again, as under a new leader."""
        now = self.clock.monotonic()
        for granted in self._leases.values():
            granted.expires_at = now + granted.ttl_s

    async def expire(self) -> None:
        """Let leases end when they are due, for ever: watches then need no timers of their own."""
        self._expiring = True
        while True:
            due = self._due[0][0] if self._due else self.clock.monotonic() + 1.0
            await self._sleep(max(_LOOK_S, due - self.clock.monotonic()))
            if not self.unavailable:
                self.tick()

    async def something(self, watcher: _Watcher) -> None:
        """Return when what it watches has changed, or when the next lease is due to end."""
        if self._expiring:
            await watcher.changed.wait()
            return
        waits = [asyncio.ensure_future(watcher.changed.wait())]
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

    def watcher(self, prefix: str) -> _Watcher:
        """Watch from now on, until ``forget``."""
        watcher = _Watcher(prefix)
        self._watchers.setdefault(prefix, {})[watcher] = None
        if len(prefix) not in self._lengths:
            self._lengths = (*self._lengths, len(prefix))
        return watcher

    def forget(self, watcher: _Watcher) -> None:
        """Watch no more."""
        self._watchers[watcher.prefix].pop(watcher, None)
        if not self._watchers[watcher.prefix]:
            del self._watchers[watcher.prefix]

    def grant(self, ttl_s: float) -> Lease:
        """Make a lease."""
        lease = Lease(self._next_lease, ttl_s)
        self._next_lease += 1
        self._leases[lease.id] = granted = _Granted(ttl_s, self.clock.monotonic() + ttl_s)
        heapq.heappush(self._due, (granted.expires_at, lease.id))
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
            self._write([Delete(key) for key in self._hanging.get(lease_id, {})])

    def listing(self, prefix: str) -> Listing:
        """Everything under a prefix, now."""
        return Listing(self.revision, tuple(self.keys[key] for key in self.under(prefix)))

    def under(self, prefix: str) -> list[str]:
        """The keys under a prefix, sorted."""
        return self._sorted[slice(*self._range(prefix))]

    def count(self, prefix: str) -> int:
        """How many keys are under a prefix."""
        first, last = self._range(prefix)
        return last - first

    def _range(self, prefix: str) -> tuple[int, int]:
        return bisect_left(self._sorted, prefix), bisect_left(self._sorted, prefix + _LAST)

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
        for watcher in self._all_watchers():
            if watcher.news:
                watcher.news.clear()
                watcher.behind = True

    def memory(self) -> Memory:
        """What it knows now, for ``go_back``."""
        leases = {lease: granted.ttl_s for lease, granted in self._leases.items()}
        return Memory(self.revision, dict(self.keys), leases)

    def go_back(self, memory: Memory) -> None:
        """Forget all that was written since then, as a server that is restored from a copy, or loses its disk's end.

        Revisions come again, for other writes. A lease that lived then lives, and has its whole time; the number of one
        that was granted since is never given again. Every watch begins anew.
        """
        self.revision, self.keys, self._sorted = memory.revision, dict(memory.keys), sorted(memory.keys)
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
        """Note on which lease a key hangs now; 0: on none."""
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
        """Let every watch look again."""
        for watcher in self._all_watchers():
            watcher.wake()
