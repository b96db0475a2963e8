"""The agent: one peer's lifecycle, from joining to leaving. It connects the other parts, which make the decisions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import TypeVar

from gossip_caffe.background import within
from gossip_caffe.errors import (
    Conflict,
    GossipCaffeError,
    LeaseLost,
    StoreUnavailable,
    WritesRefused,
)
from gossip_caffe.membership.leave_requests import wait_for_leave_request
from gossip_caffe.membership.members import MembersView, PeerRecord, Registration
from gossip_caffe.observe.log.events import SCHEMA_VERSION, Event
from gossip_caffe.observe.log.status import PeerStatus
from gossip_caffe.observe.metrics.figures import Figures
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.core.lifecycle import Cause, State, step
from gossip_caffe.peer.core.overseer import WeightsAt
from gossip_caffe.peer.core.tasks import Tasks, first_of
from gossip_caffe.peer.core.trouble import publish_trouble
from gossip_caffe.peer.core.unreached import Unreached
from gossip_caffe.peer.joining.joining import JobFinished, Joining
from gossip_caffe.peer.joining.loading import Loaded, load_early
from gossip_caffe.peer.joining.registering import register
from gossip_caffe.peer.joining.resuming import rollback_count
from gossip_caffe.peer.joining.same_net import refuse_another_net
from gossip_caffe.peer.measuring import figures_of
from gossip_caffe.peer.registration.incarnation import Incarnation
from gossip_caffe.peer.registration.own_record import OwnRecord
from gossip_caffe.peer.reporting import Reporting, status_of
from gossip_caffe.peer.training import Training
from gossip_caffe.peer.work.claiming import STORE_AWAY_PAUSE_S
from gossip_caffe.peer.work.ranking import tell_rank
from gossip_caffe.peer.work.trainer import Trainer

T = TypeVar("T")


class LeaveRequested(Exception):
    """The peer was asked to leave before it had anything to drain."""


class Agent:
    """One peer. ``run`` returns when the peer has left; ``leave`` asks it to leave."""

    def __init__(self, world: PeerDependencies, record: PeerRecord, trainer: Trainer) -> None:
        self.state = State.JOINING
        self.reason = "started"
        self._view = MembersView(world.store, world.keys, world.ignored.note)
        self._unreached = Unreached(
            record.peer, world.clock, world.warn, lambda: self._view.members, world.spec.settings.lease_ttl_s
        )
        self._world = world = replace(world, contact=self._unreached)
        self._record = record
        self._trainer = trainer
        self._tasks = Tasks()
        self._leaving = asyncio.Event()
        self._leave_reason = ""
        self._incarnation: Incarnation | None = None
        self._training: Training | None = None
        self._error = ""
        self._early: Loaded | None = None
        self._said = ""

    def figures(self) -> Figures:
        """The figures of now, for metrics."""
        return figures_of(self._world, self._record, self.state, self._view, self._now, self._training)

    def leave(self, reason: str) -> None:
        """Ask the peer to finish the chunks that it has begun, and to leave. ``reason`` is logged and shown."""
        self._leave_reason = reason
        self._leaving.set()

    async def run(self) -> Cause:
        """Join, train and leave. Returns the cause: JOB_FINISHED or ASKED_TO_LEAVE.

        Raises GossipCaffeError when the peer has to end because of an error.
        """
        self._world.log.emit(
            Event.STARTED, pid=self._record.pid, schema=SCHEMA_VERSION, **_job_fields(self._world)
        )
        try:
            try:
                training = await self._unless_leaving(self._register_and_load())
            except LeaveRequested:
                self._enter(Cause.ASKED_TO_LEAVE, self._leave_reason)
                return Cause.ASKED_TO_LEAVE
            except JobFinished as end:
                self._world.log.emit(Event.FINISHED, checkpoint=str(end))
                self._enter(Cause.JOB_FINISHED)
                return Cause.JOB_FINISHED
            cause = await self._train(training)
            self._enter(cause, self._leave_reason if cause is Cause.ASKED_TO_LEAVE else "")
            await training.drain(self._tasks, cause)
            self._enter(Cause.DRAINED)
            return cause
        except BaseException as error:
            self._error = type(error).__name__
            self._enter(Cause.ERROR, str(error) or self._error)
            raise
        finally:
            await self._close()

    async def _register_and_load(self) -> Training:
        """Register, and load the job's weights.

        Once the peer is registered, it tries again after each error of the store: an outage does not end it.
        """
        incarnation = await self._join()
        while True:
            try:
                return await self._sync(incarnation)
            except (StoreUnavailable, WritesRefused, LeaseLost, Conflict) as error:
                incarnation = await self._tasks.beside(self._start_over(incarnation, error))

    async def _join(self) -> Incarnation:
        """Register under a lease, and build the net while the newest checkpoint is fetched."""
        self._incarnation = await self._register()
        tell_rank(self._world, self._trainer, self._incarnation)
        self._tasks.spawn("members", self._view.follow())
        self._tasks.spawn("unreached", self._unreached.follow())
        if self._world.certificates is not None:
            self._tasks.spawn("certificate", self._world.certificates.follow())
        self._tasks.spawn("trouble", publish_trouble(self._world, self._lease, self._status_before_training))
        self._tasks.spawn("requests", self._leave_when_asked())
        own = OwnRecord(self._world, self._record.peer, self._registration)
        self._view.listen(own.changed)
        self._world.ranks.until(self._is_job_finished)
        self._view.listen(self._world.ranks.changed)
        self._tasks.spawn("own record", own.keep())
        async with within(load_early(self._world, self._record.peer)) as (loading,):
            await self._tasks.beside(self._trainer.build())
            self._early = await self._tasks.beside(loading)
        await self._tasks.beside(self._view.known.wait())
        return self._incarnation

    async def _start_over(self, incarnation: Incarnation, error: GossipCaffeError) -> Incarnation:
        """Prepare the next attempt after ``error``: register again if the lease is lost, and discard loaded weights.

        The weights are discarded because the job may have gone back to a checkpoint meanwhile, and a peer without a
        lease does not notice that. Raises Conflict when another peer has this peer's name.
        """
        self._forget_training()
        self._say_once(f"{error}; it joins again as soon as the store lets it")
        session = incarnation.session
        await self._world.clock.sleep(STORE_AWAY_PAUSE_S)
        if isinstance(error, LeaseLost) or not session.owns():
            session.give_up(error.message)
            self._world.log.emit(Event.LEASE_LOST, reason=session.reason)
            self._enter(Cause.LEASE_LOST, session.reason)
            self._incarnation = incarnation = await self._register(incarnation)
            tell_rank(self._world, self._trainer, incarnation)
        await self._trainer.renew()
        return incarnation

    async def _register(self, before: Incarnation | None = None) -> Incarnation:
        return await register(self._world, self._record, lambda: self.state, self._say_once, before)

    def _say_once(self, line: str) -> None:
        if line != self._said:
            self._said = line
            self._world.warn(f"{self._record.peer}: {line}")

    async def _leave_when_asked(self) -> None:
        """Leave when the store holds a request to: ``peer stop`` writes it, from any machine."""
        world = self._world
        if by := await wait_for_leave_request(
            world.store, world.keys, self._record.peer, self._lease, world.ignored.note
        ):
            self.leave(by)

    @property
    def _now(self) -> Incarnation | None:
        """The present incarnation; None before the peer is registered."""
        return self._training.incarnation if self._training is not None else self._incarnation

    def _lease(self) -> int:
        return self._now.session.id if self._now is not None else 0

    def _registration(self) -> Registration | None:
        return self._now.registration if self._now is not None else None

    async def _sync(self, incarnation: Incarnation) -> Training:
        """Load the consensus, or found the job; then exchange with peers that train. No chunk is claimed before."""
        layout = self._trainer.layout
        if self._world.is_script:
            refuse_another_net(self._view.members.values(), layout)
        await incarnation.registration.publish(fingerprint=layout.fingerprint, state=State.SYNCING.value)
        self._world.overseer.send(WeightsAt(self._record.address, layout))
        self._enter(Cause.BUILT, f"{layout.size:,} weights")
        while True:
            joining = Joining(self._world, self._trainer, self._view, incarnation, self._early)
            self._early = None
            synced = await self._tasks.beside(joining.sync())
            self._forget_training()
            self._training = Training(
                self._world, self._trainer, self._view, incarnation, self._enter, founded=synced.founded
            )
            if synced.known or await self._tasks.beside(self._training.warm_up_exchanges()):
                break
            # All peers that trained have died. What they learned is lost, so the ledger goes back with the weights.
            self._world.warn(
                f"{self._record.peer}: the peers that trained are gone; it looks for weights again"
            )
            await self._tasks.beside(self._trainer.renew())
        self._training.rollback_count = await rollback_count(
            self._world.store, self._world.keys, self._world.ignored.note
        )
        await incarnation.registration.publish(state=State.TRAINING.value)
        self._enter(Cause.SYNCED, synced.source)
        return self._training

    def _is_job_finished(self) -> bool:
        return self._training is not None and self._training.progress.finished

    def _forget_training(self) -> None:
        """End the ``Training`` of weights from which this peer does not train: it stops listening to the view."""
        if self._training is not None:
            self._training.end()
            self._training = None

    async def _train(self, training: Training) -> Cause:
        """Train until this peer is asked to leave, or until the job's budget is done."""
        training.begin(self._tasks)
        self._tasks.spawn("status", self._reporting(training).run())
        finished = training.checkpointing.job_finished
        await self._tasks.beside(first_of(finished, self._leaving))
        if not finished.is_set():
            return Cause.ASKED_TO_LEAVE
        try:
            await self._unless_leaving(training.testing.finish())
        except LeaveRequested:
            pass  # the last test is left out
        return Cause.JOB_FINISHED

    async def _close(self) -> None:
        """End every part of this peer, also after the end of another part has failed, and log how the peer ended."""
        async with AsyncExitStack() as ends:
            ends.push(self._log_end)
            ends.push_async_callback(self._end_lease)
            ends.push_async_callback(self._trainer.stop)
            if self._training is not None:
                ends.push_async_callback(self._training.testing.close)
            ends.push_async_callback(self._tasks.cancel)
            if self._training is not None:
                self._incarnation = self._training.incarnation
                self._training.end()

    async def _end_lease(self) -> None:
        if self._incarnation is not None:
            session = self._incarnation.session
            await session.close(revoke=not session.lost.is_set())  # a lost lease ends by itself soon

    def _log_end(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Log the end of this peer with the error that ended it, or that came up while it left.

        A defect of the program takes precedence over an error that a user can mend: no other line would name it.
        """
        del kind, trace
        if error is not None and not (self._error and isinstance(error, GossipCaffeError)):
            before = f"{self.reason}; as it left: " if self._error else ""
            self._error, self.reason = type(error).__name__, f"{before}{str(error) or type(error).__name__}"
        self._world.log.emit(Event.LEFT, reason=self.reason, error=self._error)

    def _enter(self, cause: Cause, detail: str = "") -> State:
        before = self.state
        after = step(before, cause, detail)
        self.state, self.reason = after.state, after.reason
        if before is not after.state:
            self._world.log.emit(Event.STATE, old=before.value, new=after.state.value, reason=after.reason)
            self._world.say(f"{self._record.peer}: {after.state.value} ({after.reason})")
        return self.state

    def _status_before_training(self) -> PeerStatus | None:
        """The status of a peer that does not train yet, for tables; None once it trains."""
        if self.state not in {State.JOINING, State.SYNCING}:
            return None
        trouble, record = self._unreached.trouble(""), self._record
        return PeerStatus(record.peer, self.state.value, self.reason, agent_pid=record.pid, trouble=trouble)

    def _reporting(self, training: Training) -> Reporting:
        def status() -> PeerStatus:
            seen = status_of(training, self.state, self.reason)
            return replace(seen, trouble=self._unreached.trouble(seen.trouble))

        return Reporting(
            status=status,
            stepping_s=lambda: training.trainer.board.steps.sum_s,
            key=self._world.keys.status(self._record.peer),
            session=lambda: training.incarnation.session,
            store=self._world.store,
            clock=self._world.clock,
            log=self._world.log,
            say=self._world.say,
            living=lambda: len(training.training_peers),
        )

    async def _unless_leaving(self, work: Awaitable[T]) -> T:
        """Await ``work``. Raises LeaveRequested when the peer is asked to leave before it is done."""
        async with within(work, self._leaving.wait()) as (main, leaving):
            await asyncio.wait({leaving, main}, return_when=asyncio.FIRST_COMPLETED)
            if not main.done():
                raise LeaveRequested
            return main.result()


def _job_fields(world: PeerDependencies) -> dict[str, object]:
    """The work of the job, for a reader who has only the log."""
    spec = world.spec
    return {
        "job": spec.name,
        "budget_samples": spec.budget_samples,
        "records": spec.data.records,
        "chunk_records": spec.data.chunk_records,
        "half_limit": spec.settings.half_limit,
        "warmup": spec.settings.warmup,
        **({} if spec.settings.strategy == "pairs" else {"strategy": spec.settings.strategy}),
    }
