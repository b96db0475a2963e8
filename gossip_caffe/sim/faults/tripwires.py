"""The fault ``exception``: a call of one of a peer's adapters raises an unexpected error, once.

Stores, networks, disks and children are reached through adapters, and any of their calls may raise any error: a
library has a defect, or a kernel runs out of a resource. The call raises before its work or after it; after it, the
work is done and the caller cannot know. The peer must go on or end loudly; no training may be lost, and no task may
wait for ever.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar, cast

T = TypeVar("T")

POINTS = (
    *(
        f"store.{call}"
        for call in ("get", "list", "keys", "count", "transact", "grant", "renew", "revoke", "watch")
    ),
    *(f"network.{call}" for call in ("exchange", "snapshot", "pull")),
    *(f"answerer.{call}" for call in ("receive", "show")),
    *(f"disk.{call}" for call in ("write", "flush", "load", "damage", "adopt", "prune", "open_file")),
    *(f"solver.{call}" for call in ("build", "start", "history")),
    *(f"loader.{call}" for call in ("start", "plan")),
)
"""(Adapter, call) of all calls that may raise."""
ERRORS: tuple[type[Exception], ...] = (RuntimeError, OSError, asyncio.InvalidStateError, ValueError)
_SIGN = "raised by the simulator"


@dataclass(frozen=True, slots=True)
class Trip:
    """``point`` raises ``error`` at its next call; ``late``: after its work."""

    point: str
    error: type[Exception]
    late: bool


def drawn(strength: float, number: int) -> Trip:
    """The trip of a fault: ``strength``, 0 to 1, selects the point; ``number`` selects the error."""
    rng = random.Random(number)
    point = POINTS[min(int(strength * len(POINTS)), len(POINTS) - 1)]
    return Trip(point, rng.choice(ERRORS), rng.random() < 0.5)


def is_on_purpose(error: BaseException) -> bool:
    """True if a trip raised the error."""
    return _SIGN in getattr(error, "__notes__", ())


class Tripwires:
    """The tripwires of one life of a peer.

    ``note`` is called with the point and the name of each error that is raised.
    """

    def __init__(self, note: Callable[[str, str], None]) -> None:
        self._note = note
        self._armed: dict[str, Trip] = {}

    def arm(self, trip: Trip) -> None:
        """Make the next call of a point raise."""
        self._armed[trip.point] = trip

    def around(self, adapter: str, target: T) -> T:
        """The adapter, with a tripwire at each of its calls."""
        return cast(T, _Wired(self, adapter, target))

    def pass_by(self, point: str, *, late: bool) -> None:
        """Raise the error if one is due at this point of a call."""
        trip = self._armed.get(point)
        if trip is None or trip.late != late:
            return
        del self._armed[point]
        self._note(point, trip.error.__name__)
        error = trip.error(f"nobody foresaw this of {point}")
        error.add_note(_SIGN)
        raise error


class _Wired:
    """A proxy for an adapter."""

    def __init__(self, wires: Tripwires, adapter: str, target: Any) -> None:
        self._wires = wires
        self._adapter = adapter
        self._target = target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        point = f"{self._adapter}.{name}"
        if point not in POINTS:
            return found
        if inspect.isasyncgenfunction(found):
            return lambda *words, **more: self._items(point, found(*words, **more))
        if inspect.iscoroutinefunction(found):

            async def later(*words: Any, **more: Any) -> Any:
                self._wires.pass_by(point, late=False)
                result = await found(*words, **more)
                self._wires.pass_by(point, late=True)
                return result

            return later

        def now(*words: Any, **more: Any) -> Any:
            self._wires.pass_by(point, late=False)
            result = found(*words, **more)
            self._wires.pass_by(point, late=True)
            return result

        return now

    async def _items(self, point: str, items: AsyncIterator[T]) -> AsyncIterator[T]:
        """Raises between two items: a call that lasts may fail at any moment."""
        self._wires.pass_by(point, late=False)
        async with aclosing(cast(Any, items)) as open_items:
            async for item in open_items:
                self._wires.pass_by(point, late=False)
                yield item
                self._wires.pass_by(point, late=True)
