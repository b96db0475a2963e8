"""A training on this machine that runs beside its caller, for asynchronous callers."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Unpack

from gossip_caffe.api.connection import Connection, connect
from gossip_caffe.api.starting.new_job import Teller
from gossip_caffe.api.starting.training import (
    LocalTraining,
    PlannedTraining,
    TrainRequest,
    data_root_arguments,
    opened,
    planned,
)
from gossip_caffe.api.train_options import TrainOptions, new_job
from gossip_caffe.api.values.html import text
from gossip_caffe.api.values.result import Result
from gossip_caffe.api.values.views import Status, status_of
from gossip_caffe.background import checked_by_owner, owned, surely_ended
from gossip_caffe.cluster.supervision.supervisor import Supervisor
from gossip_caffe.errors import Conflict
from gossip_caffe.job.code import OPTION
from gossip_caffe.security.given import or_of_environment

LOG = logging.getLogger("gossip_caffe")
KEPT = 7200
"""The number of statuses that a run keeps for charts: those of the last hour."""


class Run:
    """A training in a cluster of this machine, with an etcd of its own or another. Made by ``start``."""

    def __init__(self, plan: PlannedTraining, on_line: Callable[[str], None] | None) -> None:
        self._plan = plan
        self._on_line = on_line
        self._training: LocalTraining | None = None
        self._changed = asyncio.Event()
        self.statuses: deque[Status] = deque(maxlen=KEPT)
        """The statuses so far, two a second, the newest last."""
        self._seen = 0
        self._ended = False
        self._work = owned(self._run(), f"training of {plan.spec.name}", self._at_end)

    @property
    def job(self) -> str:
        """The name of its job."""
        return self._plan.spec.name

    @property
    def status(self) -> Status | None:
        """The newest status; None before the first."""
        return self.statuses[-1] if self.statuses else None

    @property
    def done(self) -> bool:
        """True once all of its processes have ended."""
        return self._ended

    async def wait(self) -> Result:
        """Wait for the end. Returns the result, or raises the error for which it ended."""
        return await asyncio.shield(self._work)

    async def watch(self) -> AsyncIterator[Status]:
        """Yield each new status until the end."""
        seen = self._seen
        if self.statuses:
            yield self.statuses[-1]
        while True:
            while self._seen == seen and not self._ended:
                self._changed.clear()
                await self._changed.wait()
            if self._seen == seen:
                return
            seen = self._seen
            yield self.statuses[-1]

    async def connect(self) -> Connection:
        """Return a view of its job in etcd, once the job is there. Raises Conflict when the training has ended."""
        supervisor = await self._supervisor()
        return await connect(",".join(supervisor.endpoints), job=self.job)

    async def scale(self, peers: int) -> None:
        """Start or stop peers until ``peers`` of them run. A peer that is stopped first shares its weights."""
        await (await self._supervisor()).scale(peers)

    async def kill(self, peer: str, what: str = "all", signal: str = "KILL") -> list[int]:
        """Send a signal to a peer's "agent", "solver" or "loader", or to "all". Returns the process ids.

        Training survives it. ``signal``: "KILL", "TERM", "STOP" or "CONT". Raises UsageError, NotFound or Conflict.
        """
        pids: list[int] = (await (await self._supervisor()).kill(peer, what, signal))["pids"]
        return pids

    async def stop_peer(self, peer: str) -> None:
        """Let one peer leave in good order. Raises NotFound when it does not run."""
        await (await self._supervisor()).stop(peer)

    def down(self, reason: str = "asked from Python") -> None:
        """Take everything down: the peers share their weights, and the newest are written. A second call kills them."""
        if self._training is not None and hasattr(self._training, "supervisor"):
            self._training.supervisor.go_down(reason)
        else:
            self._work.cancel()

    async def _supervisor(self) -> Supervisor:
        """Return the supervisor, once its job is in etcd. Raises Conflict, or its error, when the training is over."""
        while self.status is None and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        if self._ended or self._training is None:
            await self.wait()  # it raises the error for which the training ended
            raise Conflict(f"the training of job {self.job} has ended", remedy="start it again")
        return self._training.supervisor

    async def _run(self) -> Result:
        with opened(self._plan, self) as training:
            self._training = training
            training.begin()
            return await training.run()

    def _at_end(self, error: BaseException | None) -> None:
        checked_by_owner(error)  # ``wait`` raises it
        self._ended = True
        self._changed.set()

    # ── the audience of the training ──────────────────────────────────────────────────────────────────────────────

    def say(self, line: str) -> None:
        """Take one line of news."""
        (self._on_line or LOG.info)(line)

    def look(self, status: dict[str, Any]) -> None:
        """Take the newest status."""
        self.statuses.append(status_of(status, self._plan.spec))
        self._seen += 1
        self._changed.set()

    def happened(self, event: Mapping[str, Any]) -> None:
        """Take an event of a peer's log; it asks for none."""

    def _repr_html_(self) -> str:
        if self.status is None:
            return f"<p>job {text(self.job)}: the peers start</p>"
        return self.status._repr_html_()


async def start(solver: str | Path, peers: int | None = None, **options: Unpack[TrainOptions]) -> Run:
    """Start the training of a solver file, and return while it runs. The parameters are those of ``train``."""
    allow_code = options.get("allow_code")
    code = () if allow_code is None else (OPTION if allow_code else "--no-allow-code",)
    request = TrainRequest(
        str(solver),
        peers,
        options.get("gpus", ""),
        new_job(options),
        options.get("etcd", ""),
        options.get("job", ""),
        (*data_root_arguments(options.get("data_roots", ())), *code),
        engine=options.get("engine", "pycaffe"),
        security=or_of_environment(options.get("security")),
    )
    on_line = options.get("on_line")
    plan = await asyncio.to_thread(planned, request, Teller(on_line or LOG.info))
    return Run(plan, on_line)


async def train(
    solver: str | Path,
    peers: int | None = None,
    *,
    on_status: Callable[[Status], None] | None = None,
    **options: Unpack[TrainOptions],
) -> Result:
    """Train a solver file to its end. The parameters are those of ``gossip_caffe.train``.

    Cancelled, it takes its peers down in good order, and raises CancelledError when all processes have ended.
    """
    run = await start(solver, peers, **options)
    try:
        async for status in run.watch():
            if on_status is not None:
                on_status(status)
        return await run.wait()
    except BaseException:
        if not run.done:
            run.down()
            await surely_ended(run._work)
        raise
