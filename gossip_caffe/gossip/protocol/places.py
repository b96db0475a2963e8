"""Places for the transfers that a peer receives or sends at one time: slow transfers never keep fast ones out.

A transfer with a place must keep a pace. admission.py decides about a newcomer while all places are taken.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

from gossip_caffe.clock import Clock
from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.policy.deadline import whole_deadline_s
from gossip_caffe.gossip.policy.remembering import remember
from gossip_caffe.gossip.protocol.admission import (
    OFFERS,
    Admission,
    Caller,
    HeldPlace,
    Patience,
    admission,
)

T = TypeVar("T")

LOOK_S = 0.05
"""The interval at which a waiting caller looks for a place. A place that becomes free wakes the oldest of them."""
FEW = 10
"""More waiting callers than this look less often, so that a crowd of them does not take the event loop's time."""


@runtime_checkable
class Measured(Protocol):
    """A transfer that knows its progress, its deadline and its connection."""

    @property
    def moved_bytes(self) -> int:
        """The number of bytes received, or sent, so far."""
        ...

    @property
    def allowed_s(self) -> float:
        """The time from the transfer's beginning that the other side allows; 0.0 if it has named no deadline."""
        ...

    @property
    def source(self) -> str:
        """The connection of the transfer; "" if it is not known."""
        ...


class PlaceLost(ExchangeFailed):
    """A transfer has lost its place to another one."""


class TooSlow(ExchangeFailed):
    """A transfer was not complete by its deadline."""


UNIX = "unix:"


def connection(end: str) -> str:
    """The connection of a call, named by gRPC's name of its other end.

    All callers on a Unix socket have one name, ``UNIX``: they are processes of this peer's own user, so their names
    are believed, and no rule about crowds on one connection is to tell them apart.
    """
    return UNIX if end.startswith(UNIX) else end


def caller_of(partner: str, transfer: object) -> Caller:
    """The caller of a transfer."""
    return Caller(partner, transfer.source if isinstance(transfer, Measured) else "")


@dataclass(slots=True, eq=False)
class TransferPlace:
    """A place that is held. Its holder may set ``moved`` (the transfer's progress) and ``allowed_s``.

    ``before``: the place that was lost to this one, until that place's holder has ended.
    """

    caller: Caller
    size_bytes: int
    clock: Clock
    began_s: float
    patience: Patience = OFFERS
    is_proven: bool = False
    is_whole: bool = False
    before: TransferPlace | None = None
    moved: Callable[[], int] | None = None
    allowed_s: float = 0.0
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _scope: asyncio.Timeout | None = field(default=None)
    _lost_to: str = ""
    _seen: tuple[int, float] | None = None

    def measure(self, transfer: object) -> None:
        """Use the progress of this transfer, if it knows its progress."""
        if isinstance(transfer, Measured):
            self.moved, self.allowed_s = lambda: transfer.moved_bytes, transfer.allowed_s

    @property
    def held(self) -> HeldPlace | None:
        """The state of the place as of now; None if its transfer is over."""
        if self._scope is None:
            return None
        now, moved = self.clock.monotonic(), self.moved() if self.moved is not None else None
        if moved is None:
            return HeldPlace(self.caller, now - self.began_s, self.size_bytes, None)
        if self._seen is None or self._seen[0] != moved:
            self._seen = moved, now
        age_s, still_s = now - self.began_s, now - self._seen[1]
        return HeldPlace(self.caller, age_s, self.size_bytes, moved, still_s, self.is_proven, self.patience)

    async def vacated(self) -> None:
        """Return when the holder of the place that was lost to this one has ended, and has freed its memory."""
        if self.before is not None:
            await self.before._ended.wait()
            self.before = None

    def give_way(self, reason: str) -> None:
        """End the transfer of this place now."""
        self._lost_to = reason
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())

    async def transfer(self, work: Awaitable[T]) -> T:
        """Await ``work`` and return its result. Raises PlaceLost, TooSlow, and the errors of ``work``."""
        deadline_s = whole_deadline_s(2 * self.size_bytes, self.allowed_s)
        try:
            async with self.clock.timeout(deadline_s), asyncio.timeout(None) as self._scope:
                came = await work
                self.is_whole = True
                return came
        except TimeoutError:
            so_far = (
                f"{self.moved()} of {self.size_bytes} bytes" if self.moved is not None else "not all of it"
            )
            if self._lost_to:
                raise PlaceLost(f"{so_far} came, and another waited ({self._lost_to})") from None
            raise TooSlow(f"{so_far} came within {deadline_s:g} s") from None
        finally:
            self._scope = None


class Places:
    """The ``most`` places for one kind of transfer."""

    def __init__(self, most: int, clock: Clock, patience: Patience = OFFERS) -> None:
        self._most = most
        self._patience = patience
        self._clock = clock
        self._taken: list[TransferPlace] = []
        self._proven: dict[Caller, None] = {}
        self._waiting: dict[asyncio.Event, None] = {}

    def admission(self, newcomer: Caller) -> Admission:
        """The decision about a newcomer as of now."""
        return admission(
            newcomer, [place.held for place in self._taken], self._most, newcomer in self._proven
        )

    def prove(self, caller: Caller) -> None:
        """Count a caller as proven: a transfer of another kind came whole from it."""
        if caller.source:  # a name alone proves nothing: any caller may use it
            remember(self._proven, caller, None)

    async def wait_for(self, newcomer: Caller, most_s: float) -> bool:
        """Wait for a place, at most ``most_s``; False if there was none. The caller must take the place at once."""
        given_up_at = self._clock.monotonic() + most_s
        told = asyncio.Event()
        self._waiting[told] = None
        try:
            while not self.admission(newcomer).is_admitted:
                if self._clock.monotonic() >= given_up_at:
                    return False
                told.clear()
                with contextlib.suppress(TimeoutError):
                    async with self._clock.timeout(LOOK_S * max(1.0, len(self._waiting) / FEW)):
                        await told.wait()
            return True
        finally:
            del self._waiting[told]

    @asynccontextmanager
    async def taken(self, caller: Caller, size_bytes: int) -> AsyncIterator[TransferPlace]:
        """Hold a place for the block, and end the transfer that loses it. ``admission`` must have just admitted it."""
        found = self.admission(caller)
        loser = self._taken.pop(found.instead_of) if found.instead_of is not None else None
        if loser is not None:
            loser.give_way(found.reason)
        began_s, is_proven = self._clock.monotonic(), caller in self._proven
        place = TransferPlace(
            caller, size_bytes, self._clock, began_s, self._patience, is_proven, before=loser
        )
        self._taken.append(place)
        try:
            yield place
        finally:
            place._ended.set()
            place.before = None
            if place in self._taken:
                self._taken.remove(place)
                for told in self._waiting:
                    if not told.is_set():
                        told.set()
                        break
            self._proven.pop(caller, None)
            if place.is_whole:
                self.prove(caller)
