"""A peer's own record in the store: the peer writes it again, and says so, when another process has changed it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gossip_caffe.errors import StoreError
from gossip_caffe.membership.members import PeerRecord, Registration
from gossip_caffe.peer.core.dependencies import PeerDependencies

PAUSE_S = 1.0
"""Seconds between two looks: a process that overwrites the record again and again does not keep the peer busy."""


class OwnRecord:
    """The guard of one peer's record. ``registration`` returns that of the present incarnation, None before one."""

    def __init__(
        self, world: PeerDependencies, peer: str, registration: Callable[[], Registration | None]
    ) -> None:
        self._world = world
        self._peer = peer
        self._registration = registration
        self._look = asyncio.Event()

    def changed(self, was: PeerRecord | None, now: PeerRecord | None) -> None:
        """Look at the record soon, if the change that the view reports is one of it."""
        if any(record is not None and record.peer == self._peer for record in (was, now)):
            self._look.set()

    async def keep(self) -> None:
        """Look at the record whenever it has changed, and put it right; for ever."""
        key = self._world.keys.peer(self._peer)
        while True:
            await self._look.wait()
            self._look.clear()
            registration = self._registration()
            if registration is not None:
                try:
                    if (foreign := await registration.put_right(self._world.store)) is not None:
                        self._world.ignored.put_right(
                            key, foreign, "it is this peer's own, and another wrote it"
                        )
                except StoreError:
                    pass  # the store is away; or the lease is lost, and the next registration writes the record
            await self._world.clock.sleep(PAUSE_S)
