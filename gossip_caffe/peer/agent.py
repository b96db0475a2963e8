"""The agent: one peer's life, from joining to leaving. It wires the rooms below and decides nothing of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from gossip_caffe.errors import Conflict, GossipCaffeError, LeaseLost, StoreError, StoreUnavailable
from gossip_caffe.membership.leaving import asked_to_leave
from gossip_caffe.membership.members import MembersView, PeerRecord
from gossip_caffe.observe.events import SCHEMA_VERSION, Event
from gossip_caffe.observe.status import PeerStatus
from gossip_caffe.peer.claiming import STORE_AWAY_PAUSE_S
from gossip_caffe.peer.incarnation import Incarnation
from gossip_caffe.peer.joining import JobFinished, Joining
from gossip_caffe.peer.lifecycle import Cause, State, step
from gossip_caffe.peer.loading import Loaded, load_early
from gossip_caffe.peer.reporting import Reporting, status_of
from gossip_caffe.peer.resuming import times_back
from gossip_caffe.peer.tasks import Tasks, first_of
from gossip_caffe.peer.trainer import Trainer
from gossip_caffe.peer.training import Training
from gossip_caffe.peer.world import World

T = TypeVar("T")


class Leaving(Exception):
    """Asked to leave before there was anything to drain."""


class Agent:
    """One peer. ``run`` returns when it has left; ``leave`` asks it to."""

    def __init__(self, world: World, record: PeerRecord, trainer: Trainer) -> None:
        self.state = State.JOINING
        self.reason = "started"
        self._world = world
        self._record = record
        self._trainer = trainer
        self._view = MembersView(world.store, world.keys)
        self._tasks = Tasks()
        self._leaving = asyncio.Event()
        self._leave_reason = ""
        self._incarnation: Incarnation | None = None
        self._training: Training | None = None
        self._error = ""
        self._early: Loaded | None = None

    def leave(self, reason: str) -> None:
        """Ask the peer to finish what it began and to go."""
        self._leave_reason = reason
        self._leaving.set()

    async def run(self) -> None:
        """Join, train, leave. Raises GossipCaffeError when the peer has to end before that."""
        self._world.log.emit(Event.STARTED, pid=self._record.pid, schema=SCHEMA_VERSION, **_work(self._world))
        try:
            try:
                training = await self._unless_leaving(self._arrive())
            except Leaving:
                self._enter(Cause.ASKED_TO_LEAVE, self._leave_reason)
                return
            except JobFinished as end:
                self._world.log.emit(Event.FINISHED, checkpoint=str(end))
                self._enter(Cause.JOB_FINISHED)
                return
            cause = await self._train(training)
            self._enter(cause, self._leave_reason if cause is Cause.ASKED_TO_LEAVE else "")
            await training.drain(self._tasks, cause)
            self._enter(Cause.DRAINED)
        except BaseException as error:
            self._error = type(error).__name__
            self._enter(Cause.ERROR, str(error) or self._error)
            raise
        finally:
            await self._close()

    async def _arrive(self) -> Training:
        """Register and come to the job's weights. Once registered, no store that was away ends that for good."""
        incarnation = await self._join()
        while True:
            try:
                return await self._sync(incarnation)
            except (StoreUnavailable, LeaseLost, Conflict) as error:
                incarnation = await self._tasks.beside(self._start_over(incarnation, error))

    async def _join(self) -> Incarnation:
        """Register under a lease, and build the net, while the newest checkpoint is fetched."""
        self._incarnation = await self._register()
        self._tasks.spawn("members", self._view.follow())
        self._tasks.spawn("requests", self._leave_when_asked())
        loading = asyncio.ensure_future(load_early(self._world, self._record.peer))
        try:
            await self._tasks.beside(self._trainer.build())
            self._early = await self._tasks.beside(loading)
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
        await self._tasks.beside(self._view.known.wait())
        return self._incarnation

    async def _start_over(self, incarnation: Incarnation, error: GossipCaffeError) -> Incarnation:
        """After ``error`` on the way to the weights: register again if the lease is lost, and forget those weights.

        The job may have left their history meanwhile, and nobody tells that to a peer that is no member. Raises
        Conflict when another peer has its name.
        """
        self._training = None
        self._world.say(f"{self._record.peer}: {error.message}; it joins again as soon as the store lets it")
        session = incarnation.session
        await self._world.clock.sleep(STORE_AWAY_PAUSE_S)
        if isinstance(error, LeaseLost) or not session.owns():
            session.give_up(error.message)
            self._world.log.emit(Event.LEASE_LOST, reason=session.reason)
            self._enter(Cause.LEASE_LOST, session.reason)
            self._incarnation = incarnation = await self._register(incarnation)
        await self._trainer.renew()
        return incarnation

    async def _register(self, before: Incarnation | None = None) -> Incarnation:
        """Register, in the place of ``before`` where it was registered already, or had a lease that is over.

        For the first time a store that does not answer ends it: whoever started it is still there to be told.
        """
        clock, settings = self._world.clock, self._world.spec.settings
        had_a_lease, refused_at = before is not None, None
        while True:
            try:
                if before is not None:
                    return await before.again(self._world, self._record, self.state)
                return await Incarnation.begin(self._world, self._record, self.state)
            except Conflict:
                # For so long it may be a lease of its own, of which a store that was away knows no better.
                refused_at = clock.monotonic() if refused_at is None else refused_at
                if not had_a_lease or clock.monotonic() > refused_at + 2 * settings.lease_ttl_s:
                    raise
            except StoreError as error:
                if isinstance(error, LeaseLost):  # it was stopped for so long meanwhile
                    had_a_lease = True
                    self._world.log.emit(Event.LEASE_LOST, reason=error.message)
                if not had_a_lease:
                    raise
                refused_at = None
            await clock.sleep(STORE_AWAY_PAUSE_S)

    async def _leave_when_asked(self) -> None:
        """Leave when the store says so: ``peer stop``, from any machine."""
        if by := await asked_to_leave(self._world.store, self._world.keys, self._record.peer):
            self.leave(by)

    async def _sync(self, incarnation: Incarnation) -> Training:
        """Load the consensus, or found it, and hear what others learned since: no claim before that."""
        layout = self._trainer.layout
        await incarnation.registration.publish(fingerprint=layout.fingerprint, state=State.SYNCING.value)
        self._enter(Cause.BUILT, f"{layout.size:,} weights")
        while True:
            joining = Joining(self._world, self._trainer, self._view, incarnation, self._early)
            self._early = None
            synced = await self._tasks.beside(joining.sync())
            self._training = Training(self._world, self._trainer, self._view, incarnation, self._enter)
            if synced.known or await self._tasks.beside(self._training.meet()):
                break
            # All who trained have died: their learning is lost, and the account has to go back with the weights.
            self._world.say(f"{self._record.peer}: those who trained are gone; looking for weights again")
            await self._tasks.beside(self._trainer.renew())
        self._training.times_back = await times_back(self._world.store, self._world.keys)
        await incarnation.registration.publish(state=State.TRAINING.value)
        self._enter(Cause.SYNCED, synced.source)
        return self._training

    async def _train(self, training: Training) -> Cause:
        """Train until asked to leave or until the job's budget is done."""
        training.begin(self._tasks)
        self._tasks.spawn("status", self._reporting(training).run())
        finished = training.checkpointing.job_finished
        await self._tasks.beside(first_of(finished, self._leaving))
        if not finished.is_set():
            return Cause.ASKED_TO_LEAVE
        try:
            await self._unless_leaving(training.testing.finish())
        except Leaving:
            pass  # the last test is not made then
        return Cause.JOB_FINISHED

    async def _close(self) -> None:
        if self._training is not None:
            self._training.end()
            self._incarnation = self._training.incarnation
        await self._tasks.cancel()
        await self._trainer.stop()
        if self._incarnation is not None:
            session = self._incarnation.session
            await session.close(revoke=not session.lost.is_set())  # one that is lost ends by itself soon
        self._world.log.emit(Event.LEFT, reason=self.reason, error=self._error)

    def _enter(self, cause: Cause, detail: str = "") -> State:
        before = self.state
        after = step(before, cause, detail)
        self.state, self.reason = after.state, after.reason
        if before is not after.state:
            self._world.log.emit(Event.STATE, old=before.value, new=after.state.value, reason=after.reason)
            self._world.say(f"{self._record.peer}: {after.state.value} ({after.reason})")
        return self.state

    def _reporting(self, training: Training) -> Reporting:
        def status() -> PeerStatus:
            return status_of(training, self.state, self.reason)

        return Reporting(
            status=status,
            key=self._world.keys.status(self._record.peer),
            lease=lambda: training.incarnation.session.id,
            store=self._world.store,
            clock=self._world.clock,
            log=self._world.log,
            say=self._world.say,
            living=lambda: len(training.training),
        )

    async def _unless_leaving(self, work: Awaitable[T]) -> T:
        """Await ``work``; raises Leaving when asked to leave before it is done."""
        main = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait({leaving, main}, return_when=asyncio.FIRST_COMPLETED)
            if not main.done():
                raise Leaving
            return main.result()
        finally:
            leaving.cancel()
            main.cancel()
            await asyncio.gather(main, return_exceptions=True)


def _work(world: World) -> dict[str, object]:
    """What there is to train, for whoever has only the log."""
    spec = world.spec
    return {
        "job": spec.name,
        "budget_samples": spec.budget_samples,
        "records": spec.data.records,
        "chunk_records": spec.data.chunk_records,
    }
