"""An event loop whose time jumps to whoever wakes next: hours of sleep take no time, and one seed has one course.

Everything that asyncio times (``asyncio.sleep``, ``asyncio.timeout``) follows it. Work for other threads is done at
once in the loop's own, for while a thread works nobody could say what time it is.
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


class EverybodyWaits(RuntimeError):
    """All tasks wait for something that no time will bring."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """The loop. Nothing outside of it wakes it, so it looks at no descriptor: it waits for nobody, time moves on.

    Its timers are kept here and not where asyncio keeps them: a thousand peers sleep some ten thousand times at once,
    and to compare asyncio's own handles would take longer than all else that the loop does.
    """

    def __init__(self) -> None:
        self._now = _BEGIN_S
        self._timers: list[tuple[float, int, asyncio.TimerHandle | asyncio.Future[None]]] = []
        self._number = itertools.count()
        self._cancelled = 0
        super().__init__(selectors.SelectSelector())

    get_debug = bool
    """Never: each future asks, and to call ``bool()`` takes a fifth of what asyncio's own answer does."""

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As on a real machine a little late, so that nobody who sleeps until a moment wakes before it, by rounding.

        He would sleep again for next to nothing, and time would stand still.
        """
        return self.call_at(self._now + (delay + _LATE_S), callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call back at a virtual second; those of one moment in the order in which they were asked for."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._number), timer))
        return timer

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As asyncio's, without its checks: nothing is called more often."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        return asyncio.Future(loop=self)

    def after(self, seconds: float) -> asyncio.Future[None]:
        """Done when so many virtual seconds are over: half of what ``call_later`` takes, and nearly all are sleeps."""
        future: asyncio.Future[None] = asyncio.Future(loop=self)
        heapq.heappush(self._timers, (self._now + (seconds + _LATE_S), next(self._number), future))
        return future

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Timers that were called off before their time are let go of once they are many."""
        if handle.when() < self._now + _RESOLUTION_S:
            return  # it is not here any more: its time has come
        self._cancelled += 1
        if self._cancelled > _MOST_CANCELLED and 2 * self._cancelled > len(self._timers):
            # In place: this may be called while the loop looks at them.
            self._timers[:] = [entry for entry in self._timers if not entry[2].cancelled()]
            heapq.heapify(self._timers)
            self._cancelled = 0

    def _run_once(self) -> None:
        """One turn, in place of asyncio's: what is ready, and when nothing is, whatever comes next."""
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        timers = self._timers
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            while timers and timers[0][2].cancelled():
                heapq.heappop(timers)
            if not timers:
                raise EverybodyWaits("every task waits for another one")
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
        """``func``, here and now."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # as an executor does, whatever it is
            done.set_exception(error)
        return done


def sleep(seconds: float) -> Awaitable[None]:
    """As ``asyncio.sleep``, in a VirtualTimeLoop."""
    loop = asyncio.get_running_loop()
    if seconds > 0 and isinstance(loop, VirtualTimeLoop):
        return loop.after(seconds)
    return asyncio.sleep(seconds)


class VirtualClock:
    """The ``Clock`` of whoever runs in a VirtualTimeLoop."""

    def monotonic(self) -> float:
        """Virtual seconds."""
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        """Virtual seconds since some day."""
        return _WALL_S + self.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Let others run until then."""
        await sleep(seconds)

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """Of virtual seconds."""
        return asyncio.timeout(seconds)


def run(course: Coroutine[Any, Any, T]) -> T:
    """Run it to its end. Raises EverybodyWaits when it comes to none."""
    found: list[T] = []

    async def kept() -> None:
        # Not as the task's own result: as it ends the runner has that written out as text, and drops it; of a long
        # course that takes as long as to check it.
        found.append(await course)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(kept())
    return found[0]
