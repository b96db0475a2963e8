"""The coordination store as the product sees it: keys with revisions, leases, guarded transactions, watches.

Modelled on etcd v3, of which it is the smallest subset that we need; nobody above this file knows a client library.
Two twins implement it: ``etcd_store.EtcdStore`` and ``memory_store.MemoryStore``; one contract test runs over both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from gossip_caffe.errors import StoreError


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key as it was at one revision. ``lease`` is 0 when the key hangs on none."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """All keys under a prefix at one revision, sorted by key."""

    revision: int
    items: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True)
class Absent:
    """Guard: the key does not exist."""

    key: str


@dataclass(frozen=True, slots=True)
class Exists:
    """Guard: the key exists."""

    key: str


@dataclass(frozen=True, slots=True)
class CreatedAt:
    """Guard: the key exists since exactly that revision (ownership: it was never deleted and made again)."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class ModifiedAt:
    """Guard: the key was last written at exactly that revision."""

    key: str
    revision: int


Guard = Absent | Exists | CreatedAt | ModifiedAt


@dataclass(frozen=True, slots=True)
class Put:
    """Write a key; ``lease`` 0 keeps it for ever."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key; removing an absent key is no error."""

    key: str


@dataclass(frozen=True, slots=True)
class DeletePrefix:
    """Remove every key under a prefix."""

    prefix: str


Operation = Put | Delete | DeletePrefix


@dataclass(frozen=True, slots=True)
class TxnResult:
    """Outcome of a transaction at ``revision``.

    When a guard failed (``succeeded`` is False, nothing was written), ``found`` holds the guarded keys that exist.
    """

    succeeded: bool
    revision: int
    found: tuple[KeyValue, ...] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """A granted lease. ``ttl_s`` is what the server granted, which may be more than was asked for."""

    id: int
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Reset:
    """First item of every watch, and again after a gap: everything that exists now; forget what you knew."""

    listing: Listing


@dataclass(frozen=True, slots=True)
class Changed:
    """A key was written, or (``value`` None) deleted, at ``revision``. In order, each exactly once after a Reset."""

    key: str
    value: KeyValue | None
    revision: int


WatchItem = Reset | Changed


class Store(Protocol):
    """A linearizable key-value store with leases.

    Reads and guarded writes raise ``StoreUnavailable`` when no endpoint answered in time; ``transact`` raises
    ``Ambiguous`` when its reply was lost and it may have been applied.
    """

    async def get(self, key: str) -> KeyValue | None:
        """The key's newest value, or None."""
        ...

    async def list(self, prefix: str, *, limit: int = 0) -> Listing:
        """What is under the prefix; ``limit`` 0 means all."""
        ...

    async def keys(self, prefix: str) -> tuple[str, ...]:
        """The keys under the prefix at one revision, sorted; for many it costs a fraction of a listing."""
        ...

    async def count(self, prefix: str) -> int:
        """How many keys are under the prefix; the reply does not grow with them."""
        ...

    async def transact(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> TxnResult:
        """Apply all operations if all guards hold, atomically; at most 128 of each (etcd's default limit)."""
        ...

    async def grant(self, ttl_s: float) -> Lease:
        """Make a lease; keys put with it vanish when it is not renewed within its time to live."""
        ...

    async def renew(self, lease_id: int) -> float:
        """Renew a lease; returns its new time to live in seconds, 0.0 when it does not exist any more."""
        ...

    async def revoke(self, lease_id: int) -> None:
        """End a lease now, and with it its keys; no error when it is gone already."""
        ...

    def watch(self, prefix: str) -> AsyncIterator[WatchItem]:
        """Everything under the prefix, then every change, for ever; survives restarts, compaction and fail-over."""
        ...

    async def close(self) -> None:
        """End all watches and connections; leases are left to expire or to ``revoke``."""
        ...


MAX_OPERATIONS = 128


def checked_size(guards: Sequence[Guard], operations: Sequence[Operation]) -> None:
    """Raise StoreError for a transaction that etcd's default limit would refuse."""
    if len(guards) > MAX_OPERATIONS or len(operations) > MAX_OPERATIONS:
        raise StoreError(
            f"a transaction of {len(guards)} guards and {len(operations)} operations exceeds {MAX_OPERATIONS}",
            remedy="split it",
        )
