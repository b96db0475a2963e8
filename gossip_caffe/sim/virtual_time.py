"""An event loop whose time jumps to whoever wakes next: hours of sleep take no time, and one seed has one course.

Everything that asyncio times (``asyncio.sleep``, ``asyncio.timeout``) follows it. Work for other threads is done at
once in the loop's own, for while a thread works nobody could say what time it is.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_BEGIN_S = 1000.0
_WALL_S = 1.7e9
_LATE_S = 1e-6


class EverybodyWaits(RuntimeError):
    """All tasks wait for something that no time will bring."""


class _Jumping(selectors.SelectSelector):
    """Does not wait: time moves on instead. Nothing outside of the loop wakes it, so no descriptor is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.now = _BEGIN_S

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise EverybodyWaits("every task waits for another one")
        if timeout > 0:
            self.now += timeout
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """The loop."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds."""
        return self._jumping.now

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As on a real machine a little late, so that nobody who sleeps until a moment wakes before it, by rounding.

        He would sleep again for next to nothing, and time would stand still.
        """
        return super().call_later(delay + _LATE_S, callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """``func``, here and now."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # as an executor does, whatever it is
            done.set_exception(error)
        return done


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
        await asyncio.sleep(seconds)

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """Of virtual seconds."""
        return asyncio.timeout(seconds)


def run(course: Coroutine[Any, Any, T]) -> T:
    """Run it to its end. Raises EverybodyWaits when it comes to none."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(course)
