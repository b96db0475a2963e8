"""The event loop of synchronous callers: it runs in a thread of its own, so that it also works in notebooks.

A notebook's thread runs an event loop already, in which no other can run. The thread lives as long as its process:
Linux ends children when the thread that made them ends (``system/processes.py``).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

from gossip_caffe.background import thread
from gossip_caffe.errors import UsageError

T = TypeVar("T")


class OwnLoop:
    """An event loop in a thread of its own, which its first use starts."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, and return its result. An interrupt cancels it.

        Raises UsageError when it is called from the loop itself, which would wait for itself.
        """
        loop = self._running()
        if threading.current_thread() is self._thread:
            work.close()
            raise UsageError(
                "this was called from the event loop of gossip_caffe", remedy="use gossip_caffe.aio there"
            )
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncIterator[T], timeout_s: float | None = None) -> Iterator[T]:
        """Yield the items of an asynchronous iterator; ends when none comes within ``timeout_s``."""
        try:
            while True:
                found = self.call(_next(items, timeout_s))
                if not found:
                    return
                yield found[0]
        finally:
            self.call(_closed(items))

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if (
                self._loop is None or self._pid != os.getpid()
            ):  # a forked process has no threads of its parent's
                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                self._thread = thread(self._loop.run_forever, "gossip_caffe")
            return self._loop


async def _next(items: AsyncIterator[T], timeout_s: float | None) -> tuple[T, ...]:
    """Return the next item in a tuple; an empty one at the end, or when none comes in time."""
    try:
        async with asyncio.timeout(timeout_s) as limit:
            return (await anext(items),)
    except StopAsyncIteration:
        return ()
    except TimeoutError:
        if not limit.expired():
            raise
        return ()


async def _closed(items: AsyncIterator[Any]) -> None:
    close = getattr(items, "aclose", None)
    if close is not None:
        await close()


LOOP = OwnLoop()
"""The loop of this process."""
