"""Tasks that run beside each other: one that fails ends the work that they accompany, none is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Tasks:
    """Named background tasks of one peer."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Start one."""
        self._tasks[name] = asyncio.create_task(work, name=name)

    async def ended(self, name: str) -> None:
        """Return when one has ended by itself; its error, if any, is raised. Cancelled, it leaves the task alone."""
        if name in self._tasks:
            await asyncio.shield(self._tasks[name])
            del self._tasks[name]

    async def cancel(self, *names: str) -> None:
        """End some, or with no names all; returns when they have ended."""
        chosen = [self._tasks.pop(name) for name in names or tuple(self._tasks) if name in self._tasks]
        for task in chosen:
            task.cancel()
        await asyncio.gather(*chosen, return_exceptions=True)

    async def beside(self, work: Awaitable[T]) -> T:
        """Await ``work`` while the tasks run; the first of them that fails cancels it and raises its error here."""
        main = asyncio.ensure_future(work)
        try:
            while not main.done():
                await asyncio.wait({main, *self._tasks.values()}, return_when=asyncio.FIRST_COMPLETED)
                for name, task in list(self._tasks.items()):
                    if task.done():
                        del self._tasks[name]
                        task.result()
            return main.result()
        finally:
            main.cancel()
            await asyncio.gather(main, return_exceptions=True)


async def first_of(*events: asyncio.Event) -> None:
    """Return when one of the events is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
