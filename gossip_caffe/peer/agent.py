"""The agent: one peer's life, from joining to leaving. It wires the rooms below and decides nothing of theirs.

One task per concern runs beside the others: claiming and settling, exchanging, supervising the children, reading the
job's progress, the checkpoint duty, the status record. A task that fails ends the peer with its reason; the store being
away fails none of them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from gossip_caffe.clock import Clock
from gossip_caffe.errors import Conflict, LeaseLost, StoreError
from gossip_caffe.gossip.exchange import Exchanger, Outcome, OutcomeKind
from gossip_caffe.gossip.message import Answerer, Refusal, Transport
from gossip_caffe.job.spec import JobSpec
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import MembersView, PeerRecord, Registration
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.membership.store import Store
from gossip_caffe.observe.events import SCHEMA_VERSION, Event, EventLog
from gossip_caffe.observe.status import PeerStatus
from gossip_caffe.peer.checkpointing import Checkpointing, CheckpointRoom
from gossip_caffe.peer.claims import Claims
from gossip_caffe.peer.exchanging import Exchanging
from gossip_caffe.peer.joining import Joining
from gossip_caffe.peer.lifecycle import Cause, State, step
from gossip_caffe.peer.pace import claims_wanted
from gossip_caffe.peer.progress import Progress, look_after_s
from gossip_caffe.peer.reporting import Reporting, Throughput
from gossip_caffe.peer.trainer import Trainer
from gossip_caffe.shards.choice import Chooser
from gossip_caffe.shards.epochs import Epochs
from gossip_caffe.shards.ledger import Ledger
from gossip_caffe.shards.plan import quantised, shard

T = TypeVar("T")
LOOK_EVERY_S = 0.02
STORE_AWAY_PAUSE_S = 0.5
DRAIN_DEADLINE_S = 8.0


class Leaving(Exception):
    """Asked to leave before there was anything to drain."""


class Agent:
    """One peer. ``run`` returns when it has left; ``leave`` asks it to."""

    def __init__(
        self,
        *,
        spec: JobSpec,
        record: PeerRecord,
        store: Store,
        transport: Transport,
        serve: Callable[[Answerer], None],
        trainer: Trainer,
        checkpoints: CheckpointRoom,
        clock: Clock,
        rng: random.Random,
        log: EventLog,
        say: Callable[[str], None],
    ) -> None:
        self.spec = spec
        self.peer = record.peer
        self.state = State.JOINING
        self.reason = "started"
        self.keys = JobKeys(spec.name)
        self.epochs = Epochs.of(spec)
        self.view = MembersView(store, self.keys)
        self.progress = Progress(spec, self.epochs)
        self.trainer = trainer
        self.claims: Claims | None = None
        self.exchanger: Exchanger | None = None
        self._exchanging: Exchanging | None = None
        self._checkpointing: Checkpointing | None = None
        self._record = record
        self._store = store
        self._transport = transport
        self._serve = serve
        self._checkpoints = checkpoints
        self._clock = clock
        self._rng = rng
        self._log = log
        self._say = say
        self._leaving = asyncio.Event()
        self._leave_reason = ""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._session: LeaseSession
        self._writer: FencedWriter
        self._registration: Registration
        self._ledger: Ledger
        self._throughput = Throughput(clock)
        self._reporting = Reporting(
            status=self.status,
            key=self.keys.status(self.peer),
            lease=lambda: self._session.id,
            store=store,
            clock=clock,
            log=log,
        )

    # ── the life ──────────────────────────────────────────────────────────────────────────────────────────────────

    def leave(self, reason: str) -> None:
        """Ask the peer to finish what it began and to go."""
        self._leave_reason = reason
        self._leaving.set()

    async def run(self) -> None:
        """Join, train, leave. Raises GossipCaffeError when the peer has to end before that."""
        self._log.emit(Event.STARTED, pid=self._record.pid, schema=SCHEMA_VERSION)
        try:
            try:
                await self._unless_leaving(self._join())
                await self._unless_leaving(self._sync())
            except Leaving:
                self._enter(Cause.ASKED_TO_LEAVE, self._leave_reason)
                return
            cause = await self._train()
            self._enter(cause, self._leave_reason if cause is Cause.ASKED_TO_LEAVE else "")
            await self._drain(cause)
            self._enter(Cause.DRAINED)
        except BaseException as error:
            self._enter(Cause.ERROR, str(error) or type(error).__name__)
            raise
        finally:
            await self._close()

    def _enter(self, cause: Cause, detail: str = "") -> None:
        before = self.state
        after = step(before, cause, detail)
        self.state, self.reason = after.state, after.reason
        if before is not after.state:
            self._log.emit(Event.STATE, old=before.value, new=after.state.value, reason=after.reason)
            self._say(f"{self.peer}: {after.state.value} ({after.reason})")

    async def _join(self) -> None:
        """Register under a lease, and build the net meanwhile."""
        await self._register()
        self._spawn("members", self.view.follow())
        layout = await self._beside(self.trainer.build())
        await self.view.known.wait()
        self._record = self._registration.record
        await self._registration.publish(fingerprint=layout.fingerprint, state=State.SYNCING.value)
        self._enter(Cause.BUILT, f"{layout.size:,} weights")

    async def _register(self) -> None:
        self._session = LeaseSession(self._store, self._clock, self.spec.settings.lease_ttl_s)
        await self._session.start()
        self._writer = FencedWriter(self._store, self._session, self.keys.fence(self.peer), self._clock)
        try:
            await self._writer.open()
        except LeaseLost:
            await self._session.close()
            raise Conflict(
                f"a peer {self.peer!r} of job {self.spec.name!r} is running already (or ended less than "
                f"{self.spec.settings.lease_ttl_s:g} s ago)",
                remedy="choose another --name, or none",
            ) from None
        self._registration = Registration(self._writer, self._session, self.keys, self._record)
        await self._registration.publish(state=self.state.value)
        self._ledger = Ledger(self._store, self._writer, self.keys, self.epochs, self.peer)
        await self._ledger.refresh()

    async def _sync(self) -> None:
        """Load the consensus, or found it: no exchange before that."""
        joining = Joining(
            room=self._checkpoints,
            store=self._store,
            writer=self._writer,
            session=self._session,
            keys=self.keys,
            spec=self.spec,
            trainer=self.trainer,
            view=self.view,
            transport=self._transport,
            peer=self.peer,
            address=self._record.address,
            clock=self._clock,
            rng=self._rng,
            log=self._log,
            say=self._say,
        )
        detail = await self._beside(joining.sync())
        self._begin()
        await self._registration.publish(state=State.TRAINING.value)
        self._enter(Cause.SYNCED, detail)

    def _begin(self) -> None:
        """Everything that needs weights: exchanges, claims, checkpoints."""
        self.exchanger = Exchanger(
            peer=self.peer,
            job=self.spec.name,
            fingerprint=self.trainer.layout.fingerprint,
            codec=self.spec.settings.codec,
            weights=self.trainer.board,
            transport=self._transport,
            clock=self._clock,
            rng=self._rng,
        )
        self.exchanger.accepting = None
        self._serve(self.exchanger)
        chooser = Chooser(self.epochs, self._shard, self._rng)
        self.claims = Claims(
            ledger=self._ledger,
            lease=self._session.id,
            epochs=self.epochs,
            chooser=chooser,
            feed=self.trainer.feed,
            clock=self._clock,
            log=self._log,
        )
        self.view.on_change.append(chooser.members_changed)
        self._exchanging = Exchanging(
            exchanger=self.exchanger,
            board=self.trainer.board,
            settings=self.spec.settings,
            partners=self.partners,
            shared=self._shared,
            urgent=lambda: self.trainer.stream.unsettled and not self.trainer.stream.untrained,
            clock=self._clock,
            rng=self._rng,
            log=self._log,
        )
        self._checkpointing = Checkpointing(
            agent=self,
            room=self._checkpoints,
            store=self._store,
            transport=self._transport,
            clock=self._clock,
            rng=self._rng,
            log=self._log,
        )

    async def _train(self) -> Cause:
        """Train until asked to leave or until the job's budget is done."""
        assert self._exchanging is not None
        assert self._checkpointing is not None
        self._spawn("children", self.trainer.supervise())
        self._spawn("claims", self._claim_and_settle())
        self._spawn("exchanges", self._exchanging.run())
        self._spawn("progress", self._follow_progress())
        self._spawn("checkpoints", self._checkpointing.run())
        self._spawn("lease", self._keep_registered())
        self._spawn("status", self._reporting.run())
        finished = asyncio.create_task(self._checkpointing.job_finished.wait())
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            await self._beside(_any_of(finished, leaving))
        finally:
            finished.cancel()
            leaving.cancel()
        return Cause.JOB_FINISHED if self._checkpointing.job_finished.is_set() else Cause.ASKED_TO_LEAVE

    # ── the tasks ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _claim_and_settle(self) -> None:
        """Keep the loader fed a little ahead, and the account in the store up to date."""
        claims, trainer = self._claims, self.trainer
        again_at = 0.0
        while True:
            trainer.note_trained()
            trainer.cut(flush=again_at > self._clock.monotonic() and not trainer.queued_batches)
            trainer.board.set_flush(again_at > self._clock.monotonic())
            try:
                await claims.settle()
                want = self._wanted()
                if want and self.state is State.TRAINING and self._clock.monotonic() >= again_at:
                    pause_s = await claims.claim(want)
                    again_at = self._clock.monotonic() + pause_s if pause_s else 0.0
                    if not pause_s:
                        continue
            except LeaseLost:
                await self._clock.sleep(LOOK_EVERY_S)  # the lease's own task registers again
            except StoreError:
                await self._clock.sleep(STORE_AWAY_PAUSE_S)
            await self._clock.sleep(LOOK_EVERY_S)

    def _wanted(self) -> int:
        data, board = self.spec.data, self.trainer.board
        records_per_s = data.batch_records * self.spec.iter_size / board.step_s if board.step_s else 0.0
        return claims_wanted(
            queued_records=self.trainer.stream.waiting_records
            + self.trainer.queued_batches * data.batch_records,
            batch_records=data.batch_records,
            chunk_records=data.chunk_records,
            prefetch_batches=self.spec.settings.prefetch_batches,
            records_per_s=records_per_s,
        )

    async def _follow_progress(self) -> None:
        """Read the job's progress, steer the learning rate, and fold finished epochs."""
        while True:
            try:
                newest = max(self._claims.chooser.known, default=self._ledger.folded)
                await self.progress.look(self._ledger, newest)
                self.progress.steer(self.trainer.board, self._claims.done_samples, len(self.training))
                if min(self.training, default=self.peer) == self.peer:
                    await self._ledger.fold()
            except StoreError:
                pass  # the store is away: the last known progress stands
            await self._clock.sleep(look_after_s(len(self.training)))

    async def _keep_registered(self) -> None:
        """When the lease is lost, own nothing, train on, and register as a new incarnation as soon as that goes."""
        while True:
            await self._session.lost.wait()
            self._log.emit(Event.LEASE_LOST, reason=self._session.reason)
            self._enter(Cause.LEASE_LOST, self._session.reason)
            while self.state is State.ORPHANED:
                try:
                    await self._register()
                    await self._registration.publish(
                        state=State.TRAINING.value, fingerprint=self.trainer.layout.fingerprint
                    )
                    lost = await self._claims.renew_ownership(self._ledger, self._session.id)
                    self._enter(Cause.REGISTERED_AGAIN, f"{lost} chunks went to others")
                except (StoreError, Conflict):
                    await self._session.close(revoke=False)
                    await self._clock.sleep(STORE_AWAY_PAUSE_S)

    # ── leaving ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _drain(self, cause: Cause) -> None:
        """Finish what is begun, share it, hand the rest back; then stop. Bounded in time."""
        for name in ("claims", "exchanges", "checkpoints", "progress"):
            await self._cancel(name)
        if cause is Cause.JOB_FINISHED:
            return
        claims, trainer = self._claims, self.trainer
        try:
            async with self._clock.timeout(DRAIN_DEADLINE_S):
                await self._registration.publish(state=State.DRAINING.value)
                await claims.release(trainer.stream.hand_back())
                trainer.cut(flush=True)
                trainer.board.set_flush(True)
                while trainer.stream.untrained:
                    await self._clock.sleep(LOOK_EVERY_S)
                    trainer.note_trained()
                await self._share_all()
                await claims.settle()
                await claims.release(list(claims.owned))
        except (StoreError, TimeoutError) as error:
            # What is not settled is freed by the lease, and trained again by others.
            self._say(f"{self.peer}: left {len(claims.owned)} chunks unsettled ({error or 'out of time'})")

    async def _share_all(self) -> None:
        """Exchange until what this peer learned has left it; alone, write a checkpoint instead."""
        assert self._exchanging is not None
        assert self._checkpointing is not None
        board = self.trainer.board
        while self.trainer.stream.unsettled:
            board.request_publication()
            if self.partners():
                await self._exchanging.exchange()
                await self._clock.sleep(LOOK_EVERY_S)
            else:
                await self._checkpointing.make("leaving alone")

    async def _close(self) -> None:
        if self.exchanger is not None:
            self.exchanger.accepting = Refusal.SHUTTING_DOWN
        for name in list(self._tasks):
            await self._cancel(name)
        await self.trainer.stop()
        if hasattr(self, "_session"):
            await self._session.close()
        self._log.emit(Event.LEFT, reason=self.reason)

    def status(self) -> PeerStatus:
        """This peer's live figures."""
        if self.claims is None or self.exchanger is None:
            return PeerStatus(self.peer, self.state.value, self.reason, agent_pid=self._record.pid)
        board, outcomes = self.trainer.board, self.exchanger.outcomes
        self._throughput.note(board.samples, board.stalled_s)
        return PeerStatus(
            peer=self.peer,
            state=self.state.value,
            reason=self.reason,
            iteration=board.iteration,
            samples=board.samples,
            samples_per_s=self._throughput.samples_per_s,
            loss=board.loss if board.iteration else None,
            learning_rate=board.learning_rate,
            stalled_share=self._throughput.stalled_share,
            epoch=self.progress.folded,
            chunks_owned=len(self.claims.owned),
            chunks_done=self.claims.done_chunks,
            exchanges_applied=outcomes[OutcomeKind.APPLIED],
            exchanges_failed=outcomes[OutcomeKind.FAILED] + outcomes[OutcomeKind.REJECTED],
            consensus_distance=self.exchanger.mean_distance,
            progress_samples=self.progress.samples,
            budget_samples=self.spec.budget_samples,
            checkpoint=self._checkpointing.newest if self._checkpointing else "",
            agent_pid=self._record.pid,
            solver_pid=self.trainer.solver_pid,
            loader_pid=self.trainer.loader_pid,
            solver_restarts=self.trainer.solver_restarts,
        )

    # ── small things ──────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _claims(self) -> Claims:
        assert self.claims is not None
        return self.claims

    @property
    def session(self) -> LeaseSession:
        """The lease of this incarnation."""
        return self._session

    @property
    def writer(self) -> FencedWriter:
        """This incarnation's guarded writes."""
        return self._writer

    @property
    def ledger(self) -> Ledger:
        """This incarnation's hand on the account."""
        return self._ledger

    @property
    def address(self) -> str:
        """Where others reach this peer."""
        return self._record.address

    @property
    def training(self) -> Mapping[str, PeerRecord]:
        """All peers that train now, this one included."""
        return self.view.in_state(State.TRAINING.value)

    def partners(self) -> Mapping[str, str]:
        """Who can be asked for an exchange: peer → address."""
        fingerprint = self.trainer.layout.fingerprint
        return {
            peer: record.address
            for peer, record in self.training.items()
            if peer != self.peer and record.fingerprint == fingerprint
        }

    def _shard(self) -> list[int]:
        weights = {peer: quantised(record.weight) for peer, record in self.training.items()}
        weights.setdefault(self.peer, 1.0)
        return [int(chunk) for chunk in shard(self.peer, weights, self.epochs.chunks, self.epochs.seed)]

    def _shared(self, outcome: Outcome) -> None:
        """An exchange of ours was answered: what its snapshot holds is durable."""
        self.trainer.note_trained()
        self._claims.shared(self.trainer.stream.durable(outcome.snapshot.batches), outcome.exchange_id)

    def checkpointed(self, batches: int, checkpoint: str) -> None:
        """A checkpoint that holds our first ``batches`` batches is durable."""
        self.trainer.note_trained()
        self._claims.shared(self.trainer.stream.durable(batches), checkpoint)

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks[name] = asyncio.create_task(work, name=name)

    async def _cancel(self, name: str) -> None:
        if (task := self._tasks.pop(name, None)) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _beside(self, work: Awaitable[T]) -> T:
        """Await ``work`` while the tasks run; one of them that fails ends it with its error."""
        main = asyncio.ensure_future(work)
        try:
            while not main.done():
                await asyncio.wait({main, *self._tasks.values()}, return_when=asyncio.FIRST_COMPLETED)
                for name, task in list(self._tasks.items()):
                    if task.done():
                        del self._tasks[name]
                        task.result()
            return main.result()
        finally:
            main.cancel()

    async def _unless_leaving(self, work: Awaitable[None]) -> None:
        leaving = asyncio.create_task(self._leaving.wait())
        main = asyncio.ensure_future(work)
        try:
            await asyncio.wait({leaving, main}, return_when=asyncio.FIRST_COMPLETED)
            if not main.done():
                raise Leaving
            main.result()
        finally:
            leaving.cancel()
            main.cancel()
            await asyncio.gather(main, return_exceptions=True)


async def _any_of(*tasks: asyncio.Task[Any]) -> None:
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
