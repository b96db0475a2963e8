"""Transactions of one writer that are applied exactly once, or never, and never after its lease.

etcd may apply a transaction whose reply is lost, and may do so late. Every transaction of a writer therefore also
requires and rewrites one key of the writer's own, which hangs on its lease:

* the lease ended: the key is gone, and the transaction is refused;
* the outcome is unknown: if the key holds the transaction's nonce, it was applied; if not, rewriting the key makes the
  required revision stale, so that it never will be;
* the store forgot what it had acknowledged (restored from a copy, or a defect: docs/dependencies.md): the key is at an
  older revision than the writer's last, and all that the writer believes is void. It gives its lease up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from gossip_caffe.clock import Clock
from gossip_caffe.errors import Ambiguous, LeaseLost, StoreUnavailable
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.membership.store import (
    Absent,
    Guard,
    KeyValue,
    ModifiedAt,
    Operation,
    Put,
    Store,
    TxnResult,
)

_SETTLE_PAUSE_S = 0.1


class _NeverApplied(Exception):
    """A bump stands where the transaction would: it is dead."""


class FencedWriter:
    """All guarded writes of one peer, one at a time, in order."""

    def __init__(self, store: Store, session: LeaseSession, key: str, clock: Clock) -> None:
        self._store = store
        self._session = session
        self._key = key
        self._clock = clock
        self._lock = asyncio.Lock()
        self._revision = 0
        self._nonces = 0
        self.forgotten: tuple[int, int] | None = None
        """The revision of our newest write and that of the one the store had instead, if it was seen to go back."""

    @property
    def revision(self) -> int:
        """At which revision of the store its newest transaction was applied."""
        return self._revision

    async def open(self) -> None:
        """Put the fence; raises LeaseLost when another incarnation of this peer still has one."""
        await self._unbroken(self._open())

    async def transact(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> TxnResult:
        """Apply all operations if all guards hold; the result is certain.

        Raises StoreUnavailable when it was not applied and never will be, LeaseLost when the lease is over (then it
        was not applied either, or it was before the end: ownership is gone in both cases).
        """
        return await self._unbroken(self._transact(guards, operations))

    async def check(self) -> None:
        """See that the store still has our newest write. Raises LeaseLost when it has not, or StoreUnavailable.

        Whoever writes finds that out by it. Whoever has nothing to write has to ask, or would renew for ever a lease
        on which hangs what it has given back long ago.
        """
        async with self._lock:
            self._check()
            if not self._is_as_we_left_it(await self._store.get(self._key), self._revision):
                raise self._not_ours()

    async def look_back(self) -> None:
        """Note whether the store has forgotten our newest write, once there are no more. Raises StoreUnavailable."""
        written = self._revision  # the last write may be on its way yet
        self._is_as_we_left_it(await self._store.get(self._key), written)

    async def _open(self) -> TxnResult:
        async with self._lock:
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
        task = asyncio.ensure_future(work)
        task.add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # seen, even if nobody waits
        return await asyncio.shield(task)

    async def _write_settled(
        self, guards: Sequence[Guard], operations: Sequence[Operation], *, opening: bool = False
    ) -> TxnResult:
        self._check()
        nonce = self._next_nonce()
        try:
            result = await self._store.transact(
                guards, [Put(self._key, nonce, self._session.id), *operations]
            )
        except Ambiguous:
            return await self._settle(nonce)
        if result.succeeded:
            self._revision = result.revision
            return result
        fence = next((item for item in result.found if item.key == self._key), None)
        if opening or not self._is_as_we_left_it(fence, self._revision):
            raise self._not_ours()
        found = tuple(item for item in result.found if item.key != self._key)
        return TxnResult(False, result.revision, found)

    async def _settle(self, nonce: bytes) -> TxnResult:
        """Find out whether the transaction with ``nonce`` was applied, and see to it that it is not applied later.

        Every bump requires what the transaction required, so at most one of them all is ever applied; the value of
        the fence says which.
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
                    raise _NeverApplied
                opened = item is not None or self._revision
                if opened and not self._is_as_we_left_it(item, self._revision):
                    raise self._not_ours()
                bumps.add(bump := self._next_nonce())
                guard: Guard = ModifiedAt(self._key, self._revision) if self._revision else Absent(self._key)
                await self._store.transact([guard], [Put(self._key, bump, self._session.id)])
            except _NeverApplied:
                raise StoreUnavailable(
                    "the store lost a request; it was not applied", remedy="try again"
                ) from None
            except (Ambiguous, StoreUnavailable):
                await self._clock.sleep(_SETTLE_PAUSE_S)

    def _is_as_we_left_it(self, fence: KeyValue | None, written: int) -> bool:
        """Whether the fence is at the revision ``written``, which was known before it was asked for."""
        if fence is not None and fence.mod_revision < written:
            self.forgotten = (written, fence.mod_revision)
        return fence is not None and fence.mod_revision == written

    def _not_ours(self) -> LeaseLost:
        """The error of a fence that is not as we left it.

        It ends the session, which may be renewed for ever: where the store has lost our writes and still knows the
        lease nobody but us can find out.
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
