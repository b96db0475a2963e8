"""Concurrent work whose end is always noticed (``no-silent-end``): every task and thread is started here.

Four ways differ in the reader of a task's end:

- ``within``: a block awaits its tasks, and none outlives the block;
- ``owned``: an owner is called at the task's end, however the task ended;
- ``DetachedTasks``: no code awaits the tasks; an unexpected error goes to the log, or to ``on_error``;
- ``unending``: the work is started again, with a line in the log, whenever it ends.

``tests/unit/test_background.py`` checks that no other file starts a task or a thread by itself.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar, cast, overload

from gossip_caffe.errors import GossipCaffeError

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")

LOG = logging.getLogger(__name__)
AGAIN_S = 1.0
"""Seconds before ended work is started again."""

OnEnd = Callable[[BaseException | None], None]
"""Receives the error of a task at its end: None if the task returned, CancelledError if it was cancelled."""
OnError = Callable[[str, BaseException], None]
"""Receives the name of a task and the error that ended it."""


def log_unexpected(name: str, error: BaseException) -> None:
    """Log the error of a task, unless it is a GossipCaffeError."""
    if not isinstance(error, GossipCaffeError):
        LOG.error("%s failed: %s: %s", name, type(error).__name__, error, exc_info=error)


def owned(work: Coroutine[Any, Any, T], name: str, on_end: OnEnd) -> asyncio.Task[T]:
    """Start a task. ``on_end`` is called once at its end, from the event loop, however it ended."""
    task = asyncio.create_task(work, name=name)

    def ended(done: asyncio.Task[T]) -> None:
        on_end(asyncio.CancelledError() if done.cancelled() else done.exception())

    task.add_done_callback(ended)
    return task


def checked_by_owner(error: BaseException | None) -> None:
    """An ``on_end`` that does nothing, for an owner that checks the task itself at its own end."""
    del error


class Block(Generic[R]):
    """The tasks of one ``async with`` block; see ``within``."""

    def __init__(self, works: tuple[Awaitable[Any], ...], foreseen: tuple[type[Exception], ...]) -> None:
        self._works = works
        self._foreseen = foreseen
        self._tasks: tuple[asyncio.Task[Any], ...] = ()

    async def __aenter__(self) -> R:
        """Start the tasks."""
        self._tasks = tuple(asyncio.ensure_future(work) for work in self._works)
        return cast(R, self._tasks)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel the tasks that still run, await all tasks, and report every error."""
        if running := [task for task in self._tasks if not task.done()]:
            for task in running:
                task.cancel()
            await asyncio.wait(running)
        for task in self._tasks:
            failure = None if task.cancelled() else task.exception()
            if failure is not None and failure is not error and not isinstance(failure, self._foreseen):
                log_unexpected(task.get_name(), failure)


@overload
def within(
    first: Awaitable[T], second: Awaitable[S], /, *, foreseen: tuple[type[Exception], ...] = ()
) -> Block[tuple[asyncio.Task[T], asyncio.Task[S]]]: ...
@overload
def within(
    *works: Awaitable[T], foreseen: tuple[type[Exception], ...] = ()
) -> Block[tuple[asyncio.Task[T], ...]]: ...
def within(*works: Awaitable[Any], foreseen: tuple[type[Exception], ...] = ()) -> Any:
    """Start tasks for the time of a block. The block receives the tasks: ``one, other``, for example.

    At the block's end the tasks that still run are cancelled and awaited. An error that the block does not raise, and
    that is neither a GossipCaffeError nor ``foreseen``, is logged. ``works`` are coroutines or tasks.
    """
    return Block(works, foreseen)


class DetachedTasks:
    """Tasks that no code awaits, each kept until its end.

    ``on_error`` receives every error; without it the log does.
    """

    def __init__(self, on_error: OnError = log_unexpected) -> None:
        self._on_error = on_error
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        """The number of tasks that still run."""
        return len(self._tasks)

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        """The tasks that still run."""
        return iter(tuple(self._tasks))

    def begin(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start one more task."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def cancel(self) -> None:
        """Cancel all tasks that still run."""
        for task in self._tasks:
            task.cancel()

    async def ended(self) -> None:
        """Wait until no task runs any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_error(task.get_name(), error)


async def surely_ended(*ending: asyncio.Future[Any]) -> None:
    """Wait for threads that were told to end, also if this task is cancelled again: they still use its descriptors.

    The errors of the threads are read. Raises CancelledError at the end if the task was cancelled meanwhile.
    """
    cancelled: asyncio.CancelledError | None = None
    while running := [future for future in ending if not future.done()]:
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError as error:
            cancelled = error
    for future in ending:
        if not future.cancelled():
            future.exception()
    if cancelled is not None:
        raise cancelled


async def unending(
    begin: Callable[[], Awaitable[object]], name: str, sleep: Callable[[float], Awaitable[None]]
) -> None:
    """Run work that must not end. Whenever it ends, it is logged and the work is started again."""
    while True:
        try:
            await begin()
            LOG.error("%s ended; it is started again", name)
        except Exception as error:  # any error: this work must not end
            LOG.error("%s failed, and is started again: %s: %s", name, type(error).__name__, error)
        await sleep(AGAIN_S)


def thread(do: Callable[[], object], name: str) -> threading.Thread:
    """Start a thread that does not keep its process alive. An error is logged."""

    def seen() -> None:
        try:
            do()
        except Exception as error:  # the outermost edge of a thread
            log_unexpected(name, error)

    begun = threading.Thread(target=seen, name=name, daemon=True)
    begun.start()
    return begun
