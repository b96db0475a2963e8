"""A clock whose time a test sets, and on which nothing may wait."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager


class Watch:
    """A clock that shows what it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(seconds)

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[None]:
        raise AssertionError(seconds)
