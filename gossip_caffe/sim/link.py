"""A machine's way out: so many bytes a second, over which its messages leave one after another."""

from __future__ import annotations

import asyncio


class Link:
    """What one machine sends over. ``bytes_per_s``: 0 is as many as there are, and then nobody waits here.

    It may be narrowed, more than once at a time, and widened again, also while a message is leaving.
    """

    def __init__(self, bytes_per_s: float = 0.0) -> None:
        self._usual = bytes_per_s
        self._narrowed: list[float] = []
        # Whoever waits for it and is cancelled gives up a place that nobody misses.
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._here = 0

    @property
    def bytes_per_s(self) -> float:
        """How many pass now."""
        return min((rate for rate in (self._usual, *self._narrowed) if rate), default=0.0)

    def narrow(self, bytes_per_s: float) -> None:
        """From now on no more pass than that, until ``widen`` takes it back."""
        self._narrowed.append(bytes_per_s)
        self._wake()

    def widen(self, bytes_per_s: float) -> None:
        """Take back one ``narrow``."""
        self._narrowed.remove(bytes_per_s)
        self._wake()

    def _wake(self) -> None:
        """Whoever is sending sees how many pass now."""
        self._changed.set()
        self._changed.clear()

    @property
    def is_free(self) -> bool:
        """Whether a message leaves in no time: as many bytes pass as there are, and nobody is before it."""
        return not self._here and not self.bytes_per_s

    async def leave(self, size_bytes: int, patience_s: float) -> bool:
        """Return when a message has left; False when its turn had not come after ``patience_s``: it never leaves then.

        One that has begun goes on for as long as it takes: what lies in a socket's buffer is not taken back.
        """
        if self.is_free:
            return True
        self._here += 1
        try:
            async with asyncio.timeout(patience_s):
                await self._turn.acquire()
            try:
                await self._pass(size_bytes)
            finally:
                self._turn.release()
        except TimeoutError:
            return False
        finally:
            self._here -= 1
        return True

    async def _pass(self, size_bytes: float) -> None:
        loop = asyncio.get_running_loop()
        while size_bytes > 0 and (rate := self.bytes_per_s):
            began = loop.time()
            try:
                async with asyncio.timeout(size_bytes / rate):
                    await self._changed.wait()
            except TimeoutError:
                return
            size_bytes -= rate * (loop.time() - began)
