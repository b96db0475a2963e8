"""Background tasks of a peer. A task that fails ends the work that runs beside it; no error is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from gossip_caffe.background import checked_by_owner, log_unexpected, owned, within

T = TypeVar("T")


class Tasks:
    """Named background tasks of one peer."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Start ``work`` as the task of this name."""
        self._tasks[name] = owned(work, name, checked_by_owner)  # by ``beside``, ``ended`` or ``cancel``

    async def ended(self, name: str) -> None:
        """Wait until a task ends by itself, and raise its error if it has one. Cancelling the wait leaves the task."""
        if name in self._tasks:
            await asyncio.shield(self._tasks[name])
            del self._tasks[name]

    async def cancel(self, *names: str) -> None:
        """Cancel the named tasks, or all tasks without a name; returns when they have ended."""
        chosen = [self._tasks.pop(name) for name in names or tuple(self._tasks) if name in self._tasks]
        for task in chosen:
            task.cancel()
        await asyncio.gather(*chosen, return_exceptions=True)
        # ``beside`` does not run while the peer drains: an error of that time is said here or never.
        for task in chosen:
            if not task.cancelled() and (error := task.exception()) is not None:
                log_unexpected(task.get_name(), error)

    async def beside(self, work: Awaitable[T]) -> T:
        """Await ``work`` while the tasks run. The first task that fails cancels ``work``, and its error is raised."""
        async with within(work) as (main,):
            while not main.done():
                await asyncio.wait({main, *self._tasks.values()}, return_when=asyncio.FIRST_COMPLETED)
                for name, task in list(self._tasks.items()):
                    if task.done():
                        del self._tasks[name]
                        task.result()
            return main.result()


async def first_of(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    async with within(*(event.wait() for event in events)) as waits:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
