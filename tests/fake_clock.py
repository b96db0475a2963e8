"""A clock that a test moves by hand, or that moves on by itself when everybody sleeps."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

TURNS = 30
"""How often the loop may turn for what is ready before the clock moves on."""


class FakeClock:
    """Time stands still until ``advance``; with ``automatic`` it jumps to whoever wakes next."""

    def __init__(self, *, automatic: bool = False) -> None:
        self._now = 1000.0
        self._automatic = automatic
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._tickets = itertools.count()

    def monotonic(self) -> float:
        return self._now

    def wall(self) -> float:
        return 1.7e9 + self._now

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (self._now + seconds, next(self._tickets), woken)
        heapq.heappush(self._sleepers, entry)
        if not self._automatic:
            await woken
            return
        try:
            while not woken.done():
                await self._settle()
                while self._sleepers[0][2].cancelled():
                    heapq.heappop(self._sleepers)
                if self._sleepers[0] is entry:
                    self._wake_next()
        finally:
            woken.cancel()  # of no effect on one that was woken; else nobody waits for this sleeper any more

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """Never runs out: what a test wants to be late it makes fail."""

        @asynccontextmanager
        async def block() -> AsyncIterator[None]:
            yield

        del seconds
        return block()

    async def advance(self, seconds: float) -> None:
        """Move on, waking whoever is due on the way."""
        end = self._now + seconds
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self._wake_next()
            await self._settle()
        self._now = end
        await self._settle()

    def _wake_next(self) -> None:
        self._now, _, woken = heapq.heappop(self._sleepers)
        if not woken.done():
            woken.set_result(None)

    @staticmethod
    async def _settle() -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)
