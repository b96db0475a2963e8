"""A lease that is kept alive and that ends locally first: this peer knows the loss before any other can act on it."""

from __future__ import annotations

import asyncio
import logging

from gossip_caffe.background import owned
from gossip_caffe.clock import Clock
from gossip_caffe.errors import StoreError
from gossip_caffe.membership.etcd.store import Store

LOG = logging.getLogger(__name__)
MARGIN = 0.1
"""Fraction of the time to live by which the lease ends early here: clocks run at slightly different rates."""

OVERDUE_S = 0.5
"""Seconds that a renewal may be late before the store counts as unreachable."""

_WAKE_S = 0.2
_REVOKE_LOST_S = 2.0


class LeaseSession:
    """One lease, granted at ``began_at`` (monotonic s), and the task that renews it every third of its time to live.

    ``owns()`` is True only while the server cannot have let the lease expire: its time counts from the moment before
    the last renewal was sent. When the lease ends, or the renewing task ends, ``lost`` is set and ``reason`` says why;
    the peer then needs a new session.
    """

    def __init__(self, store: Store, clock: Clock, ttl_s: float) -> None:
        self._store = store
        self._clock = clock
        self._wanted_ttl_s = ttl_s
        self._renewing: asyncio.Task[None] | None = None
        self.id = 0
        self.ttl_s = ttl_s
        self.expires_at = float("-inf")
        self.began_at = float("-inf")
        self._renewed_at = float("-inf")
        self._closing = False
        self._over = False
        """True once the store has confirmed that the lease does not exist."""
        self.lost = asyncio.Event()
        self.reason = ""

    async def start(self) -> None:
        """Obtain the lease and begin to renew it. Raises StoreUnavailable."""
        sent_at = self._clock.monotonic()
        lease = await self._store.grant(self._wanted_ttl_s)
        self.id, self.ttl_s, self.began_at = lease.id, lease.ttl_s, sent_at
        self._extend(sent_at, lease.ttl_s)
        self._renewing = owned(self._renew_until_lost(), f"lease {self.id:x}", self._not_renewed)

    def owns(self) -> bool:
        """True while no other peer can take the keys that are attached to this lease."""
        return not self.lost.is_set() and self._clock.monotonic() < self.expires_at

    def overdue(self) -> bool:
        """True while the store does not answer: the lease is lost, or its renewal is more than ``OVERDUE_S`` late."""
        late_at = self._renewed_at + self.ttl_s / 3 + OVERDUE_S
        return self.lost.is_set() or self._clock.monotonic() > late_at

    def give_up(self, reason: str) -> None:
        """Treat the lease as lost although the store may still know it; ``close`` then ends it in the store."""
        self._lose(reason)

    async def close(self, *, revoke: bool = True) -> None:
        """Stop renewing; with ``revoke`` also end the lease in the store, so that its keys vanish at once.

        A lease that is lost here is revoked, too: a store that was restarted gives every lease its full time again.
        """
        self._closing = True
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        if revoke and self.id and not self._over:
            # After its time to live the lease ends by itself, so there is no reason to wait longer. A lost lease is
            # mostly gone in the store, too, so the wait for it is shorter.
            patience_s = min(self.ttl_s, _REVOKE_LOST_S) if self.lost.is_set() else self.ttl_s
            try:
                async with self._clock.timeout(patience_s):
                    await self._store.revoke(self.id)
                self._over = True
            except (StoreError, TimeoutError):
                pass  # the store cannot be reached: the lease ends by itself
            finally:
                self._lose("closed")
        self._lose("closed")

    def _extend(self, sent_at: float, ttl_s: float) -> None:
        self._renewed_at = sent_at
        self.expires_at = sent_at + ttl_s * (1 - MARGIN)

    def _lose(self, reason: str) -> None:
        if not self.lost.is_set():
            self.reason = reason
            self.expires_at = float("-inf")
            self.lost.set()

    def _not_renewed(self, error: BaseException | None) -> None:
        """Set ``lost`` when the renewing task ends for any reason: other tasks wait for ``lost`` alone."""
        if not self._closing and not self.lost.is_set():
            self._lose(f"its renewal ended: {type(error).__name__}: {error}")
            LOG.error("lease %x is given up: %s", self.id, self.reason)

    async def _renew_until_lost(self) -> None:
        pause_s = self.ttl_s / 3
        while True:
            await self._clock.sleep(pause_s)
            sent_at = self._clock.monotonic()
            if self.lost.is_set():
                return
            if sent_at >= self.expires_at:
                self._lose("no renewal got through within its time to live")
                return
            try:
                async with self._clock.timeout(max(_WAKE_S, self.expires_at - sent_at)):
                    ttl_s = await self._store.renew(self.id)
            except (StoreError, TimeoutError):
                pause_s = _WAKE_S
                continue
            if ttl_s <= 0:
                self._over = True
                self._lose("the store no longer knows it")
                return
            self._extend(sent_at, ttl_s)
            pause_s = self.ttl_s / 3
