"""The agent's side of the loader process."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gossip_caffe.background import within
from gossip_caffe.data.ring import BatchRing
from gossip_caffe.errors import DataError
from gossip_caffe.job.spec.spec import DataSpec
from gossip_caffe.system.children import Child

STOP_DEADLINE_S = 2.0


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """A batch to load: number ``sequence`` in the ring, with the records of ``parts``, each (epoch, start, stop)."""

    sequence: int
    parts: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """The end of a child process. ``code``: its exit code, or minus the signal's number; ``cause``: one line.

    ``remedy``: the user's action, or "". ``final``: True if a new child would end in the same way.
    """

    code: int
    cause: str
    remedy: str = ""
    final: bool = False


class Loader(Protocol):
    """A peer's loader, which fills the ring of batches: a process, or its twin for tests."""

    @property
    def pid(self) -> int:
        """The loader's process id."""
        ...

    async def start(self) -> None:
        """Start the loader. Returns when the data set is open. Raises DataError when it cannot be opened."""
        ...

    def plan(self, batches: Sequence[PlannedBatch]) -> None:
        """Append batches to the loader's plan. It never blocks."""
        ...

    async def wait(self) -> ProcessEnd:
        """Wait until the loader has ended. Returns its exit code and the cause."""
        ...

    async def stop(self) -> None:
        """End the loader."""
        ...


class LoaderProcess:
    """A loader in a process of its own.

    ``skipped`` is called for each corrupt record, with (epoch, record number, reason), and the record is skipped;
    without it a corrupt record ends the loader. ``first_record``: the place of the job's record 0 in the data, counted
    through all epochs. ``noticed`` is called with one line that the user should know.
    """

    def __init__(
        self,
        spec: DataSpec,
        seed: int,
        ring: BatchRing,
        skipped: Callable[[int, int, str], None] | None = None,
        first_record: int = 0,
        noticed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._noticed = noticed
        self._spec = spec
        self._first_record = first_record
        self._seed = seed
        self._ring = ring
        self._skipped = skipped
        self._child = Child("gossip_caffe.data.loader", self._heard)
        self._ready = asyncio.Event()
        self._failed: DataError | None = None

    @property
    def pid(self) -> int:
        """The loader's process id."""
        return self._child.pid

    async def start(self) -> None:
        """Start the process, and wait until the data set is open. Raises DataError with the reason when that fails."""
        self._child.start()
        skip = self._skipped is not None
        opening = {
            "open": dataclasses.asdict(self._spec),
            "seed": self._seed,
            "skip_corrupt": skip,
            "first_record": self._first_record,
        }
        self._child.send(opening, self._ring.fds)
        async with within(self._ready.wait(), self._child.wait()) as (ready, ended):
            await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not self._ready.is_set():
            end = await self.wait()
            raise DataError(end.cause, remedy=end.remedy)

    def plan(self, batches: Sequence[PlannedBatch]) -> None:
        """Append batches to the loader's plan."""
        if batches:
            self._child.send({"plan": [[batch.sequence, batch.parts] for batch in batches]})

    async def wait(self) -> ProcessEnd:
        """Wait until the process has ended. Returns its exit code and the cause."""
        end = await self._child.wait()
        if self._failed is not None:
            return ProcessEnd(end.code, self._failed.message, self._failed.remedy, final=True)
        last = f": {end.stderr[-1].strip()}" if end.stderr else ""
        return ProcessEnd(end.code, f"the loader ended ({end.how}){last}")

    async def stop(self) -> None:
        """End the process after its current batch, and kill it after STOP_DEADLINE_S."""
        await self._child.stop({"stop": True}, STOP_DEADLINE_S)

    def _heard(self, message: dict[str, Any]) -> None:
        if "failed" in message:
            self._failed = DataError(message["failed"], remedy=message["remedy"])
        elif "skipped" in message and self._skipped is not None:
            self._skipped(*message["skipped"])
        elif "notice" in message:
            self._noticed(message["notice"])
        elif "ready" in message:
            self._ready.set()
