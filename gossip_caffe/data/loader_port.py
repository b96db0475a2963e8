"""The agent's side of the loader process."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gossip_caffe.children import Child
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import DataError
from gossip_caffe.job.spec import DataSpec

STOP_DEADLINE_S = 2.0


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """Batch ``sequence`` holds the records of ``parts``: (epoch, start, stop) each."""

    sequence: int
    parts: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """How a child ended; ``cause`` is one line for people, ``remedy`` what to do about it (may be empty).

    ``final`` means that a new child would end the same way.
    """

    code: int
    cause: str
    remedy: str = ""
    final: bool = False


class Loader(Protocol):
    """What fills the ring."""

    @property
    def pid(self) -> int:
        """Its process id."""
        ...

    async def start(self) -> None:
        """Start it; returns when the data set is open. Raises DataError."""
        ...

    def plan(self, batches: Sequence[PlannedBatch]) -> None:
        """Append batches to what it is to load; never blocks."""
        ...

    async def wait(self) -> ProcessEnd:
        """How it ended, once it has."""
        ...

    async def stop(self) -> None:
        """End it."""
        ...


class LoaderProcess:
    """A loader in a process of its own.

    ``skipped`` is told of corrupt records (epoch, number, reason), which are left out; without it they end the loader.
    """

    def __init__(
        self,
        spec: DataSpec,
        seed: int,
        ring: BatchRing,
        skipped: Callable[[int, int, str], None] | None = None,
    ) -> None:
        self._spec = spec
        self._seed = seed
        self._ring = ring
        self._skipped = skipped
        self._child = Child("gossip_caffe.data.loader", self._heard)
        self._ready = asyncio.Event()
        self._failed: DataError | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    async def start(self) -> None:
        """Spawn it and wait until the data set is open. Raises DataError with its reason when that fails."""
        self._child.start()
        skip = self._skipped is not None
        opening = {"open": dataclasses.asdict(self._spec), "seed": self._seed, "skip_corrupt": skip}
        self._child.send(opening, self._ring.fds)
        ready = asyncio.ensure_future(self._ready.wait())
        ended = asyncio.ensure_future(self._child.wait())
        try:
            await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            ended.cancel()
        if not self._ready.is_set():
            end = await self.wait()
            raise DataError(end.cause, remedy=end.remedy)

    def plan(self, batches: Sequence[PlannedBatch]) -> None:
        """Append batches to what it is to load."""
        if batches:
            self._child.send({"plan": [[batch.sequence, batch.parts] for batch in batches]})

    async def wait(self) -> ProcessEnd:
        """How it ended, once it has."""
        end = await self._child.wait()
        if self._failed is not None:
            return ProcessEnd(end.code, self._failed.message, self._failed.remedy, final=True)
        last = f": {end.stderr[-1].strip()}" if end.stderr else ""
        return ProcessEnd(end.code, f"the loader ended ({end.how}){last}")

    async def stop(self) -> None:
        """End it, kindly at first."""
        await self._child.stop({"stop": True}, STOP_DEADLINE_S)

    def _heard(self, message: dict[str, Any]) -> None:
        if "failed" in message:
            self._failed = DataError(message["failed"], remedy=message["remedy"])
        elif "skipped" in message and self._skipped is not None:
            self._skipped(*message["skipped"])
        elif "ready" in message:
            self._ready.set()
