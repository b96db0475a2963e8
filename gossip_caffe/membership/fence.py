"""Transactions of one writer, each applied exactly once or never, and never after the end of the writer's lease.

etcd may apply a transaction whose reply is lost, and may apply it late. Every transaction of a writer therefore also
requires and rewrites one key of the writer, its fence, which is attached to the writer's lease:

* The lease has ended: the fence is deleted, and the transaction is refused.
* The outcome is unknown: if the fence holds the transaction's nonce, the transaction was applied. If not, the writer
  rewrites the fence. The revision that the transaction requires is then stale, so it can never be applied.
* etcd refused the transaction: etcd still applies the one that uses up its quota. The fence shows here, too, whether
  it was applied.
* The store lost writes that it had acknowledged (it was restored from a backup, or has a defect:
  docs/dependencies.md): the fence is at an older revision than the writer's last write. The writer's knowledge is then
  void, and it gives up its lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from gossip_caffe.background import DetachedTasks
from gossip_caffe.clock import Clock
from gossip_caffe.errors import (
    Ambiguous,
    LeaseLost,
    StoreError,
    StoreUnavailable,
    WritesRefused,
)
from gossip_caffe.membership.etcd.store import (
    Absent,
    Delete,
    Guard,
    KeyValue,
    ModifiedAt,
    Operation,
    Put,
    Store,
    TxnResult,
)
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.membership.writing import Writing

_SETTLE_PAUSE_S = 0.1


class _NeverApplied(Exception):
    """The fence holds a bump in place of the transaction, so the transaction can never be applied."""


class FencedWriter:
    """All guarded writes of one peer. They are sent one at a time, in order."""

    def __init__(self, store: Store, session: LeaseSession, key: str, clock: Clock) -> None:
        self._store = store
        self._session = session
        self._key = key
        self._clock = clock
        self._lock = asyncio.Lock()
        self._sent = DetachedTasks()
        self._revision = 0
        self._nonces = 0
        self.writing = Writing(clock)
        self.forgotten: tuple[int, int] | None = None
        """(revision of this peer's newest write, older revision that the store had instead); None while no loss was
        seen.
        """

    @property
    def revision(self) -> int:
        """The store's revision at which this writer's newest transaction was applied; 0 before the first."""
        return self._revision

    async def open(self) -> None:
        """Create the fence. Raises LeaseLost when another incarnation of this peer still has a fence."""
        await self._unbroken(self._open())

    async def transact(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> TxnResult:
        """Apply all operations if all guards hold. The outcome is certain when this returns or raises.

        Raises StoreUnavailable, StoreRefused or WritesRefused when the transaction was not applied and never will be.
        Raises LeaseLost when the lease is over: the transaction was not applied, or was applied before the end of the
        lease; the ownership is gone in both cases.
        """
        return await self._unbroken(self._transact(guards, operations))

    async def check(self) -> None:
        """Verify that the store still has this writer's newest write. Raises LeaseLost when not, or StoreUnavailable.

        A peer that writes often learns this from its writes. A peer that has nothing to write must ask. Otherwise it
        could renew its lease for ever, and so hold keys that it released long ago.
        """
        async with self._lock:
            self._check()
            if not self._is_unchanged(await self._store.get(self._key), self._revision):
                raise self._fence_lost()

    async def check_last_write(self) -> None:
        """Record in ``forgotten`` whether the store lost the newest write. For use after the last.

        Raises StoreUnavailable.
        """
        written = self._revision  # read first: the last write may still be in flight
        self._is_unchanged(await self._store.get(self._key), written)

    async def _open(self) -> TxnResult:
        async with self._lock:
            item = await self._store.get(self._key)
            if item is not None and not item.lease:
                # This fence belongs to no peer: a peer attaches its fence to its lease. Left alone, it would block the
                # name for ever.
                await self._store.transact([ModifiedAt(self._key, item.mod_revision)], [Delete(self._key)])
            return await self._write_settled([Absent(self._key)], [], opening=True)

    async def _transact(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> TxnResult:
        async with self._lock:
            fence = ModifiedAt(self._key, self._revision)
            return await self._write_settled([fence, *guards], operations)

    async def _unbroken(self, work: Coroutine[Any, Any, TxnResult]) -> TxnResult:
        """Await work that goes on to its end even if the caller is cancelled.

        A transaction that was sent must be followed up: the next one needs to know the fence's revision, and waits
        for the lock until it is known.
        """
        return await asyncio.shield(self._sent.begin(work, f"a write under {self._key}"))

    async def _write_settled(
        self, guards: Sequence[Guard], operations: Sequence[Operation], *, opening: bool = False
    ) -> TxnResult:
        self._check()
        self.writing.begin()
        nonce = self._next_nonce()
        try:
            try:
                result = await self._store.transact(
                    guards, [Put(self._key, nonce, self._session.id), *operations]
                )
            except Ambiguous:
                result = await self._settle(nonce)
            except WritesRefused as refused:
                result = await self._after_refusal(nonce, refused)
        except StoreError as error:
            self.writing.failed(error)
            raise
        self.writing.got_through()
        if result.succeeded:
            self._revision = result.revision
            return result
        fence = next((item for item in result.found if item.key == self._key), None)
        if opening or not self._is_unchanged(fence, self._revision):
            raise self._fence_lost()
        found = tuple(item for item in result.found if item.key != self._key)
        return TxnResult(False, result.revision, found)

    async def _after_refusal(self, nonce: bytes, refused: WritesRefused) -> TxnResult:
        """The outcome of a transaction that the store refused. Raises the refusal again if it was not applied.

        etcd applies the transaction that uses up its quota, and refuses it all the same. The store has answered, so
        the transaction is no longer in flight: one read of the fence decides.
        """
        while True:
            self._check()
            try:
                item = await self._store.get(self._key)
            except StoreError as error:
                self.writing.failed(error)
                await self._clock.sleep(_SETTLE_PAUSE_S)
                continue
            if item is not None and item.value == nonce:
                self._revision = item.mod_revision
                return TxnResult(True, item.mod_revision)
            raise refused

    async def _settle(self, nonce: bytes) -> TxnResult:
        """Find out whether the transaction with ``nonce`` was applied, and prevent that it is applied later.

        A bump is a transaction that only rewrites the fence. Every bump requires the same revision as the transaction,
        so at most one of them all is ever applied. The value of the fence tells which.
        """
        bumps: set[bytes] = set()
        while True:
            self._check()
            try:
                item = await self._store.get(self._key)
                if item is not None and item.value == nonce:
                    self._revision = item.mod_revision
                    return TxnResult(True, item.mod_revision)
                if item is not None and item.value in bumps:
                    self._revision = item.mod_revision
                    self.writing.got_through()
                    raise _NeverApplied
                opened = item is not None or self._revision
                if opened and not self._is_unchanged(item, self._revision):
                    raise self._fence_lost()
                bumps.add(bump := self._next_nonce())
                guard: Guard = ModifiedAt(self._key, self._revision) if self._revision else Absent(self._key)
                await self._store.transact([guard], [Put(self._key, bump, self._session.id)])
            except _NeverApplied:
                raise StoreUnavailable(
                    "the store lost a request; it was not applied", remedy="try again"
                ) from None
            except LeaseLost:
                raise
            except StoreError as error:  # also raised by a corrupt etcd, which answers no reads
                self.writing.failed(error)
                await self._clock.sleep(_SETTLE_PAUSE_S)

    def _is_unchanged(self, fence: KeyValue | None, written: int) -> bool:
        """True if the fence is at the revision ``written``.

        The caller must know ``written`` before it reads the fence.
        """
        if fence is not None and fence.mod_revision < written:
            self.forgotten = (written, fence.mod_revision)
        return fence is not None and fence.mod_revision == written

    def _fence_lost(self) -> LeaseLost:
        """The error for a fence that another writer changed or removed. Creating it gives up the session.

        The session must end here: a store that lost this peer's writes may still know the lease and renew it for ever,
        and only this peer can notice that.
        """
        why = "its fence is another's, or gone"
        if self.forgotten is not None:
            why = f"the store forgot what it had acknowledged at revision {self._revision}"
        if self._revision:
            self._session.give_up(why)
        return LeaseLost(f"the fence {self._key} is not ours any more: {why}", remedy="register again")

    def _check(self) -> None:
        if not self._session.owns():
            raise LeaseLost(
                f"the lease is over ({self._session.reason or 'not renewed in time'})",
                remedy="register again",
            )

    def _next_nonce(self) -> bytes:
        self._nonces += 1
        return b"%x.%d" % (self._session.id, self._nonces)
