"""A lease kept alive, with a local end: this peer knows that it lost the lease before anybody else can act on it."""

from __future__ import annotations

import asyncio

from gossip_caffe.clock import Clock
from gossip_caffe.errors import StoreError
from gossip_caffe.membership.store import Store

MARGIN = 0.1
"""Share of the time to live by which we give up early: clocks run at slightly different rates."""

OVERDUE_S = 0.5
"""How much later than it should a renewal may come before the store counts as away."""

_WAKE_S = 0.2
_REVOKE_LOST_S = 2.0


class LeaseSession:
    """One lease, had since ``began_at`` (monotonic s), and the task that renews it at a third of its time to live.

    ``owns()`` is true only while the server cannot have let the lease expire: the time counts from before the last
    renewal was sent. When it ends, ``lost`` is set and ``reason`` says why; a new session is then needed.
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
        self._over = False
        """The store has said that it has let go of it."""
        self.lost = asyncio.Event()
        self.reason = ""

    async def start(self) -> None:
        """Get the lease and begin to renew it. Raises StoreUnavailable."""
        sent_at = self._clock.monotonic()
        lease = await self._store.grant(self._wanted_ttl_s)
        self.id, self.ttl_s, self.began_at = lease.id, lease.ttl_s, sent_at
        self._extend(sent_at, lease.ttl_s)
        self._renewing = asyncio.create_task(self._renew_until_lost(), name=f"lease {self.id:x}")

    def owns(self) -> bool:
        """True while nobody can take what hangs on this lease."""
        return not self.lost.is_set() and self._clock.monotonic() < self.expires_at

    def overdue(self) -> bool:
        """True while the store does not answer: the lease is lost, or should have been renewed a while ago."""
        late_at = self._renewed_at + self.ttl_s / 3 + OVERDUE_S
        return self.lost.is_set() or self._clock.monotonic() > late_at

    def give_up(self, reason: str) -> None:
        """Own nothing any more, although the store may still know the lease: ``close`` ends it."""
        self._lose(reason)

    async def close(self, *, revoke: bool = True) -> None:
        """Stop renewing; with ``revoke`` also end the lease at once, so that its keys are gone now.

        Also one that is lost here: a store that was restarted gives every lease its whole time again.
        """
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        if revoke and self.id and not self._over:
            # Longer than its time to live there is nothing to wait for; a lost one, which is mostly gone, waits less.
            patience_s = min(self.ttl_s, _REVOKE_LOST_S) if self.lost.is_set() else self.ttl_s
            try:
                async with self._clock.timeout(patience_s):
                    await self._store.revoke(self.id)
                self._over = True
            except (StoreError, TimeoutError):
                pass  # the store is away: the lease ends by itself
        self._lose("closed")

    def _extend(self, sent_at: float, ttl_s: float) -> None:
        self._renewed_at = sent_at
        self.expires_at = sent_at + ttl_s * (1 - MARGIN)

    def _lose(self, reason: str) -> None:
        if not self.lost.is_set():
            self.reason = reason
            self.expires_at = float("-inf")
            self.lost.set()

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
                self._lose("the store does not know it any more")
                return
            self._extend(sent_at, ttl_s)
            pause_s = self.ttl_s / 3
