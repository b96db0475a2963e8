"""The outgoing link of a machine: a bandwidth, over which its messages leave one after another."""

from __future__ import annotations

import asyncio


class SimulatedLink:
    """The outgoing link of one machine. ``bytes_per_s``: its bandwidth; 0: unlimited, so no message waits here.

    It can be narrowed, several times at once, and widened again, also while a message is leaving.
    """

    def __init__(self, bytes_per_s: float = 0.0) -> None:
        self._usual = bytes_per_s
        self._narrowed: list[float] = []
        # A sender that is cancelled while it waits gives up its place; no other code depends on the place.
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._here = 0

    @property
    def bytes_per_s(self) -> float:
        """The bandwidth now, in bytes per second."""
        return min((rate for rate in (self._usual, *self._narrowed) if rate), default=0.0)

    def narrow(self, bytes_per_s: float) -> None:
        """Limit the bandwidth from now on, until ``widen`` removes the limit."""
        self._narrowed.append(bytes_per_s)
        self._wake()

    def widen(self, bytes_per_s: float) -> None:
        """Remove one limit that ``narrow`` set."""
        self._narrowed.remove(bytes_per_s)
        self._wake()

    def _wake(self) -> None:
        """Make the current sender take the new bandwidth into account."""
        self._changed.set()
        self._changed.clear()

    @property
    def is_free(self) -> bool:
        """True if a message leaves at once: the bandwidth is unlimited, and no message waits."""
        return not self._here and not self.bytes_per_s

    async def leave(self, size_bytes: int, patience_s: float) -> bool:
        """Wait until a message has left.

        Returns False if its turn does not come within ``patience_s``; it then never leaves.

        A message that has begun to leave leaves completely, however long it takes: a socket's buffer is not emptied
        either.
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
