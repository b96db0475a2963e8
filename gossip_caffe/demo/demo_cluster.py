"""The cluster of the demonstration: a local cluster, run by its supervisor in this process."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from gossip_caffe.background import checked_by_owner, log_unexpected, owned, within
from gossip_caffe.cluster.supervision.supervisor import Supervisor
from gossip_caffe.cluster.view import rows
from gossip_caffe.demo.checkpoint_keeper import CheckpointKeeper
from gossip_caffe.demo.script_run import View
from gossip_caffe.errors import GossipCaffeError
from gossip_caffe.observe.log.status import PeerStatus

LEAVE_DEADLINE_S = 15.0
"""The time that the peers of a finished job have to leave by themselves."""


class LocalDemoCluster:
    """A context manager (``async with``) for a local cluster: when it ends, also by an error, no process is left."""

    def __init__(self, supervisor: Supervisor, keeper: CheckpointKeeper, budget_samples: int) -> None:
        self._supervisor = supervisor
        self._keeper = keeper
        self._budget_samples = budget_samples
        self._looks: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._running: asyncio.Task[object]
        self._finished = False

    async def __aenter__(self) -> Self:
        """Bring the cluster up."""
        self._running = owned(self._supervisor.run(self._looks.put_nowait), "the cluster", checked_by_owner)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the peers of a finished job leave, and take the cluster down."""
        if self._finished and not self._running.done():
            await asyncio.wait({self._running}, timeout=LEAVE_DEADLINE_S)
        self._supervisor.go_down("the demonstration ends")
        await asyncio.wait({self._running})
        self._keeper.collect()
        if kind is None:
            self._running.result()
        elif (failed := self._running.exception()) is not None and failed is not error:
            log_unexpected("the cluster", failed)

    async def look(self) -> View:
        """Wait for the supervisor's next status of the cluster. Raises GossipCaffeError when the cluster went down."""
        async with within(self._looks.get()) as (waiting,):
            await asyncio.wait({waiting, self._running}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                self._running.result()
                raise GossipCaffeError(
                    "the cluster went down before the job was finished", remedy="try again"
                )
            self._keeper.collect()
            return self._view(waiting.result())

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
        """Start one more peer. Returns its name."""
        done = await self._supervisor.scale(len(self._supervisor.fleet.running) + 1)
        return str(done["started"][0])

    async def kill(self, peer: str) -> None:
        """``kill -9`` the peer's agent, solver and loader."""
        await self._supervisor.kill(peer, "all", "KILL")
