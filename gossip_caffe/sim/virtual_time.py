"""An event loop whose time jumps to the next timer: hours of sleep take no time, and one seed gives one history.

All of asyncio's timing (``asyncio.sleep``, ``asyncio.timeout``) follows it. Work for other threads runs at once in the
loop's own thread, because the virtual time during such work would be undefined.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import selectors
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_BEGIN_S = 1000.0
_WALL_S = 1.7e9
_LATE_S = 1e-6
_RESOLUTION_S = 1e-9
_MOST_CANCELLED = 1000


class Deadlock(RuntimeError):
    """All tasks wait for events that no timer will cause."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """The loop. No event outside it can wake it, so it polls no descriptors and never waits in real time.

    It keeps its timers itself: a thousand peers have some ten thousand sleeps at once, and comparing asyncio's own
    handles would take longer than all other work of the loop.
    """

    def __init__(self) -> None:
        self._now = _BEGIN_S
        self._timers: list[tuple[float, int, asyncio.TimerHandle | asyncio.Future[None]]] = []
        self._number = itertools.count()
        self._cancelled = 0
        super().__init__(selectors.SelectSelector())

    get_debug = bool
    """Always False. Each future calls it, and calling ``bool()`` takes a fifth of the time of asyncio's own method."""

    def time(self) -> float:
        """The virtual time, in seconds."""
        return self._now

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call back slightly later than asked, as a real machine does.

        Without that, rounding could wake a sleeper before its time. It would sleep again for almost nothing, for ever,
        and time would stand still.
        """
        return self.call_at(self._now + (delay + _LATE_S), callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call back at a virtual second. Callbacks of the same second run in the order of their calls."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._number), timer))
        return timer

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Like asyncio's, without its checks: no method is called more often."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        return asyncio.Future(loop=self)

    def after(self, seconds: float) -> asyncio.Future[None]:
        """A future that is done after these virtual seconds.

        It takes half the time of ``call_later``, and nearly all timers are sleeps.
        """
        future: asyncio.Future[None] = asyncio.Future(loop=self)
        heapq.heappush(self._timers, (self._now + (seconds + _LATE_S), next(self._number), future))
        return future

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Remove cancelled timers once there are many."""
        if handle.when() < self._now + _RESOLUTION_S:
            return  # it is no longer in the heap: its time has come
        self._cancelled += 1
        if self._cancelled > _MOST_CANCELLED and 2 * self._cancelled > len(self._timers):
            # Change the list in place: this may be called while the loop iterates over it.
            self._timers[:] = [entry for entry in self._timers if not entry[2].cancelled()]
            heapq.heapify(self._timers)
            self._cancelled = 0

    def _run_once(self) -> None:
        """One iteration in place of asyncio's: run the ready callbacks; if there are none, jump to the next timer."""
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        timers = self._timers
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            while timers and timers[0][2].cancelled():
                heapq.heappop(timers)
            if not timers:
                raise Deadlock("every task waits for another one")
            self._now = max(self._now, timers[0][0])
        end = self._now + _RESOLUTION_S
        while timers and timers[0][0] < end:
            due = heapq.heappop(timers)[2]
            if isinstance(due, asyncio.TimerHandle):
                ready.append(due)
            elif not due.done():
                due.set_result(None)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def run_in_executor(self, executor: Any, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Call ``func`` at once, in this thread."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # an executor passes on every error, too
            done.set_exception(error)
        return done


def sleep(seconds: float) -> Awaitable[None]:
    """Like ``asyncio.sleep``, for a VirtualTimeLoop."""
    loop = asyncio.get_running_loop()
    if seconds > 0 and isinstance(loop, VirtualTimeLoop):
        return loop.after(seconds)
    return asyncio.sleep(seconds)


class VirtualClock:
    """The ``Clock`` of code that runs in a VirtualTimeLoop."""

    def monotonic(self) -> float:
        """The virtual time, in seconds."""
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        """The virtual time, in seconds since a fixed day."""
        return _WALL_S + self.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep for these virtual seconds."""
        await sleep(seconds)

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """A block that raises TimeoutError when it takes longer than these virtual seconds."""
        return asyncio.timeout(seconds)


def run(course: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in a new VirtualTimeLoop. Raises Deadlock when it cannot end."""
    found: list[T] = []

    async def kept() -> None:
        # The result is not kept as the task's own: when the task ends, asyncio's runner formats that result as text
        # and drops it; for a long run this takes as long as checking it.
        found.append(await course)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(kept())
    return found[0]
