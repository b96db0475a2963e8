"""A peer while it trains: exchanges, claims, progress and checkpoints, each a task beside the others.

The store may be away at any moment; none of the tasks fails because of that. What is due stays due, and the solver goes
on with what it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gossip_caffe.errors import Conflict, EnvironmentProblem, ExchangeFailed, StoreError
from gossip_caffe.gossip.message import Refusal
from gossip_caffe.gossip.outcome import Outcome, OutcomeKind
from gossip_caffe.membership.members import MembersView, PeerRecord
from gossip_caffe.observe.events import Event
from gossip_caffe.peer.checkpointing import Checkpointing
from gossip_caffe.peer.claiming import LOOK_EVERY_S, STORE_AWAY_PAUSE_S, Claiming
from gossip_caffe.peer.claims import Claims
from gossip_caffe.peer.company import Company
from gossip_caffe.peer.incarnation import Incarnation
from gossip_caffe.peer.lifecycle import Cause, State
from gossip_caffe.peer.progress import Progress, look_after_s
from gossip_caffe.peer.resuming import TimesBack, times_back
from gossip_caffe.peer.strategy import Surroundings
from gossip_caffe.peer.tasks import Tasks
from gossip_caffe.peer.testing import Testing
from gossip_caffe.peer.throughput import Throughput
from gossip_caffe.peer.trainer import Trainer
from gossip_caffe.peer.weighing import tell_weight
from gossip_caffe.peer.world import World
from gossip_caffe.shards.choice import Chooser
from gossip_caffe.shards.plan import planned_weights

DRAIN_DEADLINE_S = 8.0
MEETINGS = 3
"""Exchanges of a joiner before its first claim."""
MEETINGS_S = 5.0
"""After the first of them has succeeded, and so long, the others are not waited for."""
MEET_AGAIN_S = 0.1

Enter = Callable[[Cause, str], State]


class Training:
    """What a peer does between loading the consensus and leaving. ``enter`` moves its lifecycle."""

    def __init__(
        self, world: World, trainer: Trainer, view: MembersView, incarnation: Incarnation, enter: Enter
    ) -> None:
        self.world = world
        self.trainer = trainer
        self.incarnation = incarnation
        self.progress = Progress(world.spec, world.epochs)
        self.peer = incarnation.registration.record.peer
        self.times_back = TimesBack()
        """How often the job had been taken back to a checkpoint when this peer came to its weights."""
        self._view = view
        self._enter = enter
        self._company = Company(view, self.peer, trainer.layout.fingerprint)
        chooser = Chooser(world.epochs, self._shard, world.rng, lambda: len(self.training))
        self.claims = Claims(
            ledger=incarnation.ledger,
            lease=incarnation.session.id,
            epochs=world.epochs,
            chooser=chooser,
            feed=trainer.feed,
            withdraw=trainer.stream.withdraw,
            clock=world.clock,
            log=world.log,
        )
        self._claiming = Claiming(
            world,
            trainer,
            self.claims,
            chooser,
            lambda: self.incarnation.session,
        )
        self.strategy = world.strategy(
            Surroundings(
                peer=self.peer,
                job=world.spec.name,
                fingerprint=trainer.layout.fingerprint,
                blobs=tuple(trainer.layout.exchanged_blobs),
                board=trainer.board,
                settings=world.spec.settings,
                own=lambda: (self.peer, self.incarnation.registration.record.zone),
                partners=self.partners,
                zones=lambda: self._company.zones,
                shared=self._shared,
                urgent=lambda: trainer.stream.unsettled and not trainer.stream.untrained,
                transport=world.transport,
                offload=world.offload,
                clock=world.clock,
                rng=world.rng,
                log=world.log,
            )
        )
        self.checkpointing = Checkpointing(self)
        self.testing = Testing(self)

    async def meet(self) -> bool:
        """Exchange with some of those who train, before anything is claimed; False when nobody trains any more.

        One is needed: the weights that this peer loaded lack what was learned since, which the account calls done. The
        others bring it nearer to the consensus.
        """
        clock, met = self.world.clock, 0
        given_up_at = clock.monotonic() + MEETINGS_S
        while met < MEETINGS and (partners := self.partners()):
            outcome = await self.strategy.exchange()
            if outcome is not None and outcome.kind is OutcomeKind.APPLIED:
                met += 1
            elif met and clock.monotonic() >= given_up_at:
                break
            else:
                await clock.sleep(MEET_AGAIN_S)
            if met >= len(partners):
                break
        return met > 0

    def begin(self, tasks: Tasks) -> None:
        """Answer offers, and start all tasks."""
        self.strategy.accept()
        self.world.serve(self.strategy.answerer)
        self._view.on_change += [self._note_member, self._claiming.member_changed]
        tasks.spawn("children", self.trainer.supervise())
        tasks.spawn("batches", self._claiming.feed())
        tasks.spawn("claims", self._claiming.claim_and_settle())
        tasks.spawn("exchanges", self.strategy.run())
        tasks.spawn("progress", self._follow_progress())
        tasks.spawn("checkpoints", self.checkpointing.run())
        tasks.spawn("tests", self.testing.run())
        tasks.spawn("credit", self._claiming.train_on_credit())
        telling = tell_weight(
            lambda: self.incarnation.registration,
            self.trainer.board,
            self._claiming.always_had_work,
            self.world,
        )
        tasks.spawn("weight", telling)
        tasks.spawn("lease", self._keep_registered())

    def _note_member(self, was: PeerRecord | None, now: PeerRecord | None) -> None:
        """Write down whose state has changed: from this it shows how soon a death is noticed."""
        old, new = was.state if was is not None else "", now.state if now is not None else ""
        if old != new and (subject := now or was) is not None:
            self.world.log.emit(Event.MEMBER, member=subject.peer, old=old, new=new)

    async def drain(self, tasks: Tasks, cause: Cause) -> None:
        """Finish what is begun, share it, and hand the rest back; bounded in time.

        What cannot be settled in time is freed by the lease, and trained again by others.
        """
        await self._claiming.end(tasks)
        await tasks.cancel("batches", "exchanges", "checkpoints", "tests", "progress", "weight")
        if cause is Cause.JOB_FINISHED:
            return
        try:
            async with self.world.clock.timeout(DRAIN_DEADLINE_S):
                handed_back = self.trainer.stream.hand_back()
                if not self._store_is_away:
                    await self.incarnation.registration.publish(state=State.DRAINING.value)
                    await self.claims.release(handed_back)
                self.trainer.cut(flush=True)
                self.trainer.board.set_flush(True)
                while self.trainer.stream.untrained:
                    await self.world.clock.sleep(LOOK_EVERY_S)
                    self.trainer.note_trained()
                # Partners need no store: what was learned here does not end with this peer, although nobody notes it.
                await self._share_all()
                if self._store_is_away:
                    raise StoreError("the store is away")
                await self.claims.settle()
                await self.claims.release(list(self.claims.owned))
                if self.checkpointing.duty.ours:
                    # All may be leaving: what two of them shared with each other would go with both.
                    await self.progress.look(self.incarnation.ledger)
                    await self.checkpointing.make("leaving with the duty", self.checkpointing.duty)
        except (StoreError, EnvironmentProblem, ExchangeFailed, TimeoutError) as error:
            left = len(self.claims.owned)
            self.world.say(f"{self.peer}: leaves {left} chunks unsettled ({error or 'out of time'})")

    @property
    def _store_is_away(self) -> bool:
        """Whether asking the store would only take the time that is left."""
        return self.incarnation.session.overdue()

    def end(self) -> None:
        """Answer no more offers."""
        self.strategy.refuse(Refusal.SHUTTING_DOWN)

    async def _share_all(self) -> None:
        """Exchange until what this peer learned has left it; alone, write a checkpoint instead."""
        while self.trainer.stream.unsettled:
            self.trainer.board.request_publication()
            if self.partners():
                await self.strategy.pause(await self.strategy.exchange(), urgent=True)
            elif self._store_is_away:
                return  # a checkpoint that nobody can be told of settles nothing
            else:
                await self.checkpointing.make("leaving alone")

    # ── the tasks ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _follow_progress(self) -> None:
        """Read the job's progress, steer the learning rate, and fold finished epochs."""
        living = written = 0
        while True:
            training, writer = self.training, self.incarnation.writer
            # After the store was away others come back one by one: they trained all the time.
            living = len(training) if self._claiming.is_settled_in else max(living, len(training))
            try:
                ledger = self.incarnation.ledger
                await self.progress.look(ledger)
                self.progress.steer(self.trainer.board, self.claims.done_samples, living)
                if self._leads:
                    await ledger.fold()
                if writer.revision == written:
                    await writer.check()
                written = writer.revision
            except StoreError:
                pass  # the last known progress stands; a lease that is lost has a task of its own
            await self.world.clock.sleep(look_after_s(len(training)))

    async def _keep_registered(self) -> None:
        """When the lease is lost, own nothing, train on, and register as a new incarnation as soon as that goes."""
        while True:
            before = self.incarnation
            await before.session.lost.wait()
            self.world.log.emit(Event.LEASE_LOST, reason=before.session.reason)
            state = self._enter(Cause.LEASE_LOST, before.session.reason)
            if state is not State.ORPHANED:
                return  # it is leaving: what it still owned is free, and it needs no new lease
            while state is State.ORPHANED:
                try:
                    record = before.registration.record
                    self.incarnation = await self.incarnation.again(self.world, record, State.TRAINING)
                    if self.times_back.is_forgotten(await times_back(self.world.store, self.world.keys)):
                        raise EnvironmentProblem(
                            "etcd has forgotten that the job went back to a checkpoint, and calls done what no peer's "
                            "weights hold",
                            remedy="start the peers again: the job goes back once more, and loses nothing",
                        )
                    lost = await self.claims.renew_ownership(
                        self.incarnation.ledger, self.incarnation.session.id
                    )
                    state = self._enter(Cause.REGISTERED_AGAIN, f"{lost} chunks went to others")
                except (StoreError, Conflict):
                    await self.world.clock.sleep(STORE_AWAY_PAUSE_S)

    @property
    def throughput(self) -> Throughput:
        """How fast this peer trains."""
        return self._claiming.throughput

    # ── what the parts ask ────────────────────────────────────────────────────────────────────────────────────────

    @property
    def training(self) -> Mapping[str, PeerRecord]:
        """All peers that train now, this one included."""
        return self._view.in_state(State.TRAINING.value)

    @property
    def address(self) -> str:
        """Where others reach this peer."""
        return self.incarnation.registration.record.address

    def partners(self) -> Mapping[str, str]:
        """Who can be asked for an exchange: peer → address."""
        return self._company.addresses

    @property
    def _leads(self) -> bool:
        """Whether no training peer has a lower name."""
        training = self.training
        is_one = self.peer in training or not training
        return is_one and not any(peer < self.peer for peer in training)

    def _shard(self) -> list[int]:
        own = {self.peer: self.incarnation.registration.record.weight}
        weights = planned_weights(own | {peer: record.weight for peer, record in self.training.items()})
        epochs = self.world.epochs
        mine: list[int] = self.world.planner.shard(self.peer, weights, epochs.chunks, epochs.seed).tolist()
        return mine

    def _shared(self, outcome: Outcome) -> None:
        """An exchange of ours was answered: what its snapshot holds is durable."""
        self.durable(outcome.snapshot.batches, outcome.exchange_id)

    def durable(self, batches: int, via: str) -> None:
        """The learning of our first ``batches`` batches has left the peer, by exchange or checkpoint ``via``."""
        self.trainer.note_trained()
        self.claims.shared(self.trainer.stream.durable(batches), via)
