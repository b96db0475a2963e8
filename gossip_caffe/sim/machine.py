"""The machine of a simulated peer: its clock may be wrong or coarse, and it may be stopped for a while, or slow."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from gossip_caffe.sim.link import Link
from gossip_caffe.sim.virtual_time import VirtualClock, sleep


class Machine:
    """What may happen to the machine of one peer.

    ``slowness``: how many times as long a step takes. ``grain_s``: no sleep is shorter, as where a timer is coarse.
    ``store_cut``: it cannot reach the store. ``frozen``: stopped, as by SIGSTOP, nothing on it runs. ``link``: what it
    sends to other peers leaves over it, ``bytes_per_s`` unless it is narrowed; 0: as many as there are.
    """

    def __init__(self, name: str, grain_s: float = 0.0, bytes_per_s: float = 0.0) -> None:
        self.name = name
        self.grain_s = grain_s
        self.slowness = 1.0
        self.store_cut = False
        self.frozen = False
        self.link = Link(bytes_per_s)
        self.clock = MachineClock(self)
        self._thawed: asyncio.Event | None = None

    def freeze(self) -> None:
        """Stop everything on it."""
        if self._thawed is None:
            self._thawed = asyncio.Event()
            self.frozen = True

    def thaw(self) -> None:
        """Let everything go on."""
        if self._thawed is not None:
            self._thawed.set()
            self._thawed = None
            self.frozen = False

    async def awake(self) -> None:
        """Return when it runs."""
        while self._thawed is not None:
            await self._thawed.wait()


class MachineClock:
    """The ``Clock`` of a machine: virtual time, run at ``rate`` times its speed and ``skew_s`` off on the wall."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._virtual = VirtualClock()
        self._rate = 1.0
        self._skew_s = 0.0
        self._since = self._then = 0.0

    def go_wrong(self, rate: float, skew_s: float) -> None:
        """From now on run at another speed, without a jump; the wall clock jumps to ``skew_s`` off."""
        self._then, self._since = self.monotonic(), self._virtual.monotonic()
        self._rate, self._skew_s = rate, skew_s

    def monotonic(self) -> float:
        """Seconds, as this machine counts them."""
        return self._then + (asyncio.get_running_loop().time() - self._since) * self._rate

    def wall(self) -> float:
        """Seconds since some day, as this machine has them."""
        return self._virtual.wall() + self._skew_s

    async def sleep(self, seconds: float) -> None:
        """Let others run until then; a machine that is stopped wakes when it goes on."""
        machine = self._machine
        if seconds > 0:
            seconds = max(seconds, machine.grain_s) / self._rate
        await sleep(seconds)
        if machine.frozen:
            await machine.awake()

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """A block that raises TimeoutError when it takes longer, but not while the machine is stopped."""
        return _Timeout(self._machine, seconds / self._rate)


class _Timeout:
    """As ``asyncio.timeout``; when the time is over while the machine is stopped, it ends when that goes on."""

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
            self._waiting = asyncio.ensure_future(self._over_when_awake())
        else:
            self._timeout.reschedule(asyncio.get_running_loop().time())

    async def _over_when_awake(self) -> None:
        await self._machine.awake()
        self._timeout.reschedule(asyncio.get_running_loop().time())
