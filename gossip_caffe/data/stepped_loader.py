"""A loader without a process: it fills the ring by calls, so that an agent can run on virtual time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from gossip_caffe.data.loader import Sources
from gossip_caffe.data.loader_port import PlannedBatch, ProcessEnd
from gossip_caffe.data.ring import BatchRing

KILLED = -9


class SteppedLoader:
    """The twin of ``LoaderProcess``: it loads only within ``advance``.

    ``sources`` are open, and several loaders may share them: a record is the same for each loader.
    """

    pid = 0

    def __init__(self, sources: Sources, ring: BatchRing) -> None:
        self._sources = sources
        self._ring = ring
        self._planned: deque[PlannedBatch] = deque()
        self._ended: asyncio.Future[ProcessEnd] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Do nothing: the sources are open already."""

    def plan(self, batches: Sequence[PlannedBatch]) -> None:
        """Append batches to the loader's plan."""
        self._planned += batches

    def advance(self) -> int:
        """Load planned batches while there is a free slot. Returns the number of loaded batches."""
        loaded = 0
        while self._planned and (arrays := self._ring.reserve(0.0)) is not None:
            batch = self._planned.popleft()
            records = self._sources.fill([list(part) for part in batch.parts], arrays)
            self._ring.commit(batch.sequence, records)
            loaded += 1
        return loaded

    async def wait(self) -> ProcessEnd:
        """Wait until the loader has ended. Returns its exit code and the cause."""
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        """End the loader between two batches; the rest of its plan is dropped."""
        if not self._ended.done():
            self._planned.clear()
            self._ended.set_result(ProcessEnd(KILLED, "the loader ended (killed by SIGKILL)"))

    async def stop(self) -> None:
        """End the loader."""
        if not self._ended.done():
            self._ended.set_result(ProcessEnd(0, "the loader ended (exit 0)"))
