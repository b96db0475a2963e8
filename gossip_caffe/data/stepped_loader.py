"""A loader without a process: fills the ring when told to, so that an agent can be tested on virtual time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from gossip_caffe.data.loader import Sources
from gossip_caffe.data.loader_port import PlannedBatch, ProcessEnd
from gossip_caffe.data.ring import BatchRing

KILLED = -9


class SteppedLoader:
    """The twin of ``LoaderProcess``: loads in ``advance``, and only there.

    ``sources`` are open, and may be shared: a record is alike for whoever loads it.
    """

    pid = 0

    def __init__(self, sources: Sources, ring: BatchRing) -> None:
        self._sources = sources
        self._ring = ring
        self._planned: deque[PlannedBatch] = deque()
        self._ended: asyncio.Future[ProcessEnd] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """The sources are open."""

    def plan(self, batches: Sequence[PlannedBatch]) -> None:
        """Append batches to what it is to load."""
        self._planned += batches

    def advance(self) -> int:
        """Load what is planned and finds a free slot; returns how many batches."""
        loaded = 0
        while self._planned and (arrays := self._ring.reserve(0.0)) is not None:
            batch = self._planned.popleft()
            records = self._sources.fill([list(part) for part in batch.parts], arrays)
            self._ring.commit(batch.sequence, records)
            loaded += 1
        return loaded

    async def wait(self) -> ProcessEnd:
        """How it ended, once it has."""
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        """End it between two batches; what it has not loaded nobody has."""
        if not self._ended.done():
            self._planned.clear()
            self._ended.set_result(ProcessEnd(KILLED, "the loader ended (killed by SIGKILL)"))

    async def stop(self) -> None:
        """End it."""
        if not self._ended.done():
            self._ended.set_result(ProcessEnd(0, "the loader ended (exit 0)"))
