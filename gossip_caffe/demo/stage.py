"""The real stage: a local cluster of its own, run by its supervisor in this process."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from gossip_caffe.cluster.supervisor import Supervisor
from gossip_caffe.cluster.view import rows
from gossip_caffe.demo.harvest import Harvest
from gossip_caffe.demo.play import View
from gossip_caffe.errors import GossipCaffeError
from gossip_caffe.observe.status import PeerStatus

LEAVE_DEADLINE_S = 15.0
"""How long the peers of a finished job may take to leave by themselves."""


class ClusterStage:
    """Use it as ``async with``: at the end, however it comes about, nothing of the cluster runs any more."""

    def __init__(self, supervisor: Supervisor, harvest: Harvest, budget_samples: int) -> None:
        self._supervisor = supervisor
        self._harvest = harvest
        self._budget_samples = budget_samples
        self._looks: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._running: asyncio.Task[object]
        self._finished = False

    async def __aenter__(self) -> Self:
        """Bring the cluster up."""
        self._running = asyncio.create_task(self._supervisor.run(self._looks.put_nowait))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the peers of a finished job leave; take everything else down."""
        if self._finished and not self._running.done():
            await asyncio.wait({self._running}, timeout=LEAVE_DEADLINE_S)
        self._supervisor.go_down("the demonstration ends")
        await asyncio.wait({self._running})
        self._harvest.collect()
        if kind is None:
            self._running.result()

    async def look(self) -> View:
        """Wait for the supervisor's next look at its cluster."""
        waiting = asyncio.ensure_future(self._looks.get())
        try:
            await asyncio.wait({waiting, self._running}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                self._running.result()
                raise GossipCaffeError(
                    "the cluster went down before the job was finished", remedy="try again"
                )
            self._harvest.collect()
            return self._view(waiting.result())
        finally:
            waiting.cancel()

    def _view(self, status: dict[str, Any]) -> View:
        statuses = tuple(
            PeerStatus(**row["status"]) for row in status["peers"] if row["running"] and "status" in row
        )
        progress = max((peer.progress_samples for peer in statuses), default=0)
        checkpoint = None
        if status["finished"] is not None:
            self._finished = True
            checkpoint = str(status["finished"]["checkpoint"])
            progress = self._budget_samples
        table = tuple(rows(status))
        return View(progress, self._budget_samples, statuses, status["seconds"], table, checkpoint)

    async def add_peer(self) -> str:
        """Start one more peer; returns its name."""
        done = await self._supervisor.scale(len(self._supervisor.fleet.running) + 1)
        return str(done["started"][0])

    async def kill(self, peer: str) -> None:
        """``kill -9`` the peer's agent, solver and loader."""
        await self._supervisor.kill(peer, "all", "KILL")
