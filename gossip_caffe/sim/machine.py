"""The machine of a simulated peer: its clock may be wrong or coarse, and it may be frozen or slow."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from gossip_caffe.background import checked_by_owner, owned
from gossip_caffe.sim.link import SimulatedLink
from gossip_caffe.sim.virtual_time import VirtualClock, sleep


class Machine:
    """The state of one peer's machine.

    ``slowness``: the factor on the duration of a step. ``grain_s``: the shortest sleep (s), as with a coarse timer.
    ``store_cut``: True while it cannot reach the store. ``frozen``: True while it is stopped as by SIGSTOP. ``link``:
    its outgoing link, with ``bytes_per_s`` unless a fault narrows it; 0: unlimited.
    """

    def __init__(self, name: str, grain_s: float = 0.0, bytes_per_s: float = 0.0) -> None:
        self.name = name
        self.grain_s = grain_s
        self.slowness = 1.0
        self.store_cut = False
        self.frozen = False
        self.link = SimulatedLink(bytes_per_s)
        self.clock = MachineClock(self)
        self._thawed: asyncio.Event | None = None

    def freeze(self) -> None:
        """Stop all processes on it."""
        if self._thawed is None:
            self._thawed = asyncio.Event()
            self.frozen = True

    def thaw(self) -> None:
        """Continue all processes on it."""
        if self._thawed is not None:
            self._thawed.set()
            self._thawed = None
            self.frozen = False

    async def awake(self) -> None:
        """Wait until it is not frozen."""
        while self._thawed is not None:
            await self._thawed.wait()


class MachineClock:
    """The ``Clock`` of a machine: virtual time at ``rate`` times its speed, with the wall clock ``skew_s`` off."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._virtual = VirtualClock()
        self._rate = 1.0
        self._skew_s = 0.0
        self._since = self._then = 0.0

    def go_wrong(self, rate: float, skew_s: float) -> None:
        """Change the speed from now on. The monotonic clock does not jump; the wall clock jumps to ``skew_s`` off."""
        self._then, self._since = self.monotonic(), self._virtual.monotonic()
        self._rate, self._skew_s = rate, skew_s

    def monotonic(self) -> float:
        """Monotonic seconds of this machine."""
        return self._then + (asyncio.get_running_loop().time() - self._since) * self._rate

    def wall(self) -> float:
        """Wall seconds of this machine."""
        return self._virtual.wall() + self._skew_s

    async def sleep(self, seconds: float) -> None:
        """Sleep for these seconds of this machine. A frozen machine wakes when it is thawed."""
        machine = self._machine
        if seconds > 0:
            seconds = max(seconds, machine.grain_s) / self._rate
        await sleep(seconds)
        if machine.frozen:
            await machine.awake()

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """A block that raises TimeoutError when it takes longer, but not while the machine is frozen."""
        return _Timeout(self._machine, seconds / self._rate)


class _Timeout:
    """Like ``asyncio.timeout``.

    If the time is over while the machine is frozen, the timeout waits until it is thawed.
    """

    def __init__(self, machine: Machine, seconds: float) -> None:
        self._machine = machine
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)
        self._due: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Task[None] | None = None

    async def __aenter__(self) -> object:
        await self._timeout.__aenter__()
        self._due = asyncio.get_running_loop().call_later(self._seconds, self._over)
        return self._timeout

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._due is not None:
            self._due.cancel()
        if self._waiting is not None:
            self._waiting.cancel()
        await self._timeout.__aexit__(kind, error, traceback)

    def _over(self) -> None:
        if self._machine.frozen:
            self._waiting = owned(self._over_when_awake(), "a time that is over", checked_by_owner)
        else:
            self._timeout.reschedule(asyncio.get_running_loop().time())

    async def _over_when_awake(self) -> None:
        await self._machine.awake()
        self._timeout.reschedule(asyncio.get_running_loop().time())
