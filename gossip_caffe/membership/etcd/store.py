"""The coordination store: keys with revisions, leases, guarded transactions, watches.

The Protocol is modelled on etcd v3, and is the smallest subset of it that the product needs. Modules above this one do
not know any client library. ``etcd_store.EtcdStore`` and ``memory_store.MemoryStore`` implement it; the same contract
tests run on both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from gossip_caffe.errors import StoreError


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key as it was at one revision. ``lease`` is 0 when the key is attached to no lease."""

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
    """Guard: the key exists, and was created at exactly that revision.

    It proves ownership: the key was never re-created.
    """

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
    """Write a key. With ``lease`` 0 the key has no lease, and stays until it is deleted."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key. Removing an absent key is no error."""

    key: str


@dataclass(frozen=True, slots=True)
class DeletePrefix:
    """Remove every key under a prefix."""

    prefix: str


Operation = Put | Delete | DeletePrefix


@dataclass(frozen=True, slots=True)
class TxnResult:
    """Outcome of a transaction at ``revision``.

    When a guard failed, ``succeeded`` is False and nothing was written; ``found`` then holds the guarded keys that
    exist.
    """

    succeeded: bool
    revision: int
    found: tuple[KeyValue, ...] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """A granted lease. ``ttl_s`` is the granted time to live (s), which may exceed the requested time."""

    id: int
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Reset:
    """All keys that exist now: the first item of every watch, and again after a gap. It replaces all earlier items."""

    listing: Listing


@dataclass(frozen=True, slots=True)
class Changed:
    """A key was written or deleted at ``revision``; ``value`` is None for a deletion.

    After a Reset, changes come in order and each exactly once.
    """

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
        """All keys under the prefix with their values; ``limit`` 0 means all."""
        ...

    async def keys(self, prefix: str) -> tuple[str, ...]:
        """All keys under the prefix at one revision, sorted, without values.

        For many keys it is far cheaper than ``list``.
        """
        ...

    async def count(self, prefix: str) -> int:
        """The number of keys under the prefix. The reply has the same size for any number."""
        ...

    async def transact(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> TxnResult:
        """Apply all operations if all guards hold, atomically. At most 128 of each (etcd's default limit)."""
        ...

    async def grant(self, ttl_s: float) -> Lease:
        """Create a lease. Keys that are put with it vanish when it is not renewed within its time to live (s)."""
        ...

    async def renew(self, lease_id: int) -> float:
        """Renew a lease. Returns its time to live in seconds; 0.0 when the lease does not exist any more."""
        ...

    async def revoke(self, lease_id: int) -> None:
        """End a lease now, and delete its keys. No error when the lease does not exist."""
        ...

    def watch(self, prefix: str) -> AsyncIterator[WatchItem]:
        """All keys under the prefix, then every change. The watch survives restarts, compaction and fail-over.

        Ends when the client is closed. Raises StoreRefused when the store does not permit it, and any unexpected error
        that ended the client's watches.
        """
        ...

    async def compact(self, revision: int) -> None:
        """Discard the history before a revision. Raises StoreError, also when that history is already discarded."""
        ...

    async def refusal(self) -> str:
        """Why the store refuses every write, with the remedy, if the store reports it; "" while it accepts writes."""
        ...

    async def close(self) -> None:
        """End all watches and close all connections. Leases are not ended: they expire, or ``revoke`` ends them."""
        ...


MAX_OPERATIONS = 128


def checked_size(guards: Sequence[Guard], operations: Sequence[Operation]) -> None:
    """Raise StoreError for a transaction that exceeds etcd's default limit."""
    if len(guards) > MAX_OPERATIONS or len(operations) > MAX_OPERATIONS:
        raise StoreError(
            f"a transaction of {len(guards)} guards and {len(operations)} operations exceeds {MAX_OPERATIONS}",
            remedy="split it",
        )
