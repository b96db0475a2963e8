"""Time as a value that is passed in, so that the agent also runs on virtual time."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Clock(Protocol):
    """The time as the product may use it."""

    def monotonic(self) -> float:
        """Seconds that never decrease, from an arbitrary origin."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch; for users and logs only, never for decisions."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``; other tasks run meanwhile."""
        ...

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """A block that raises ``TimeoutError`` when it takes longer than ``seconds``."""
        ...


class SystemClock:
    """The machine's own time, under asyncio."""

    def monotonic(self) -> float:
        """Seconds of the machine's monotonic clock."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds since the Unix epoch."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task."""
        await asyncio.sleep(seconds)

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """``asyncio.timeout`` of that length."""
        return asyncio.timeout(seconds)
