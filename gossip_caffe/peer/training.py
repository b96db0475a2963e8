"""A peer while it trains: exchanges, claims, progress and checkpoints, each in a task of its own.

No task fails because the store is away, which it may be at any moment. Work that is due stays due, and the solver goes
on with the chunks that it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from gossip_caffe.errors import StoreError
from gossip_caffe.gossip.codecs.message import Refusal
from gossip_caffe.gossip.protocol.outcome import Outcome
from gossip_caffe.membership.members import MembersView, PeerRecord, Subscription
from gossip_caffe.observe.log.events import Event
from gossip_caffe.peer.auditing import Auditing
from gossip_caffe.peer.checkpoints.checkpointing import Checkpointing
from gossip_caffe.peer.checkpoints.compaction import compact_history
from gossip_caffe.peer.checkpoints.halting import Halting
from gossip_caffe.peer.checkpoints.snapshots import ExactSnapshots
from gossip_caffe.peer.checkpoints.testing import Testing
from gossip_caffe.peer.core.complaints import Complaints
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.core.lifecycle import Cause, State
from gossip_caffe.peer.core.strategy import StrategyContext
from gossip_caffe.peer.core.tasks import Tasks
from gossip_caffe.peer.draining import Draining
from gossip_caffe.peer.joining.healing import Healing
from gossip_caffe.peer.joining.renewing import Enter, Renewing
from gossip_caffe.peer.joining.resuming import RollbackCount
from gossip_caffe.peer.joining.warm_up import warm_up_exchanges
from gossip_caffe.peer.registration.incarnation import Incarnation
from gossip_caffe.peer.sharing.health import Half, OwnHealth
from gossip_caffe.peer.sharing.partners_view import LivePartners
from gossip_caffe.peer.store_news import StoreNews
from gossip_caffe.peer.work.claiming import Claiming
from gossip_caffe.peer.work.claims import Claims
from gossip_caffe.peer.work.clipping import Clipping
from gossip_caffe.peer.work.progress import Progress, look_after_s
from gossip_caffe.peer.work.published_speed import publish_speed
from gossip_caffe.peer.work.throughput import Throughput
from gossip_caffe.peer.work.trainer import Trainer
from gossip_caffe.shards.choice import Chooser
from gossip_caffe.shards.plan import planned_weights


class Training:
    """The parts and tasks of a peer between loading the consensus and leaving.

    ``enter`` moves the peer's lifecycle. ``founded``: this peer has founded the job.
    """

    def __init__(
        self,
        world: PeerDependencies,
        trainer: Trainer,
        view: MembersView,
        incarnation: Incarnation,
        enter: Enter,
        *,
        founded: bool = False,
    ) -> None:
        self.world = world
        self.trainer = trainer
        self.incarnation = incarnation
        self.progress = Progress(world.spec, world.epochs)
        self.peer = incarnation.registration.record.peer
        self.complaints = Complaints(world.say, world.clock)
        self.health = OwnHealth()
        self.leaving = False
        self.rollback_count = RollbackCount()
        """The number of the job's rollbacks when this peer loaded its weights."""
        self._view = view
        self._subscriptions: list[Subscription] = []
        self._departed = asyncio.Event()
        self._live_partners = LivePartners(view, self.peer, trainer.layout.fingerprint)
        self.chooser = chooser = Chooser(
            world.epochs, self._shard, world.rng, lambda: len(self.training_peers)
        )
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
            lambda: self.incarnation.writer,
        )
        self.strategy = world.strategy(
            StrategyContext(
                peer=self.peer,
                job=world.spec.name,
                fingerprint=trainer.layout.fingerprint,
                blobs=tuple(trainer.layout.exchanged_blobs),
                board=trainer.board,
                settings=world.spec.settings,
                own=lambda: (self.peer, self.incarnation.registration.record.zone),
                partners=self.partners,
                zones=lambda: self._live_partners.zones,
                members=lambda: view.members,
                shared=self._shared,
                urgent=lambda: trainer.stream.unsettled and not trainer.stream.untrained,
                transport=world.transport,
                offload=world.offload,
                clock=world.clock,
                rng=world.rng,
                log=world.log,
                warm=lambda: self.progress.is_warm,
                say=world.say,
                contact=world.contact,
                half_added=self._half_added,
                refused=self._refused,
                address=lambda: self.address,
                address_of=self._address_of,
                serve=world.serve,
                exhausted=self._is_exhausted,
                restarting=lambda: trainer.is_restarting,
                authenticated=world.authenticated,
                outlook=lambda: self.progress.outlook(len(self.training_peers)),
            )
        )
        self._clipping = Clipping(
            world,
            self.progress,
            self.peer,
            lambda: self.incarnation.writer,
            lambda: self._leads,
            lambda: len(self.training_peers),
            lambda: len(view.members),
        )
        self.checkpointing = Checkpointing(self)
        self._auditing = Auditing(world)
        self.healing = Healing(self)
        self.testing = Testing(self)
        exact = None
        if world.snapshots is not None:
            exact = ExactSnapshots(world.spec, self.peer, trainer.layout, world.snapshots)
        self._halting = Halting(self, exact)
        self._draining = Draining(self, self._claiming, self._halting)
        self._renewing = Renewing(self, enter)
        self._was_alone = founded
        """Whether this peer alone has trained every sample of the job so far."""

    async def warm_up_exchanges(self) -> bool:
        """Exchange with some peers that train, before any chunk is claimed. False when no peer trains any more."""
        return await warm_up_exchanges(self)

    def begin(self, tasks: Tasks) -> None:
        """Answer offers, and start all tasks."""
        self.strategy.accept()
        self.world.serve(self.strategy.answerer)
        self._subscriptions += map(self._view.listen, (self._note_member, self._claiming.member_changed))
        self._halting.begin(founded=self._was_alone)
        tasks.spawn("children", self.trainer.supervise())
        tasks.spawn("health", self.healing.watch())
        tasks.spawn("batches", self._claiming.feed())
        tasks.spawn("claims", self._claiming.claim_and_settle())
        tasks.spawn("exchanges", self.strategy.run())
        tasks.spawn("progress", self._follow_progress())
        tasks.spawn("clip", self._clipping.run())
        tasks.spawn("checkpoints", self.checkpointing.run())
        tasks.spawn("tests", self.testing.run())
        tasks.spawn("halts", self._halting.run())
        tasks.spawn("unclaimed", self._claiming.train_unclaimed())
        telling = publish_speed(
            lambda: self.incarnation.registration,
            self.trainer.board,
            self._claiming.always_had_work,
            self.world,
        )
        tasks.spawn("weight", telling)
        tasks.spawn("lease", self._renewing.run())
        tasks.spawn("departed", self._forget_departed())
        world, checkpointing = self.world, self.checkpointing
        history = compact_history(
            world.store,
            world.clock,
            lambda: checkpointing.duty.ours,
            lambda: self.incarnation.writer.revision,
        )
        tasks.spawn("history", history)
        news = StoreNews(self.peer, self.world.clock, self.world.say)
        following = news.follow(
            lambda: self.incarnation.writer.writing, lambda: not self.incarnation.session.overdue()
        )
        tasks.spawn("store", following)

    def _note_member(self, was: PeerRecord | None, now: PeerRecord | None) -> None:
        """Log a member's change of state: the log then shows how soon a death was noticed."""
        if was is not None and (now is None or now.address != was.address):
            self._departed.set()
        old, new = was.state if was is not None else "", now.state if now is not None else ""
        if old != new and (subject := now or was) is not None:
            # A record also vanishes in an outage of etcd, and at the job's end.
            lost = not new and old == State.TRAINING and self._claiming.is_settled_in
            fields = {"lost": True} if lost and not self.progress.finished else {}
            self.world.log.emit(Event.MEMBER, member=subject.peer, old=old, new=new, **fields)

    async def drain(self, tasks: Tasks, cause: Cause) -> None:
        """Finish the chunks that are begun, share them, and release the others. The time for this is bounded."""
        await self._draining.drain(tasks, cause)

    def end(self) -> None:
        """Refuse offers, and stop listening to the view: the peer leaves, or begins again with another ``Training``."""
        self.strategy.refuse(Refusal.SHUTTING_DOWN)
        self._live_partners.close()
        for subscription in self._subscriptions:
            subscription.close()

    # ── the tasks ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _follow_progress(self) -> None:
        """Read the job's progress, set the learning rate, and fold epochs that are done in the ledger; for ever."""
        living = written = 0
        while True:
            training, writer = self.training_peers, self.incarnation.writer
            # After an outage of the store members register again one by one, although they trained all the time.
            living = len(training) if self._claiming.is_settled_in else max(living, len(training))
            try:
                ledger = self.incarnation.ledger
                await self.progress.look(ledger)
                self._steer(living)
                if self._leads or self._auditing.acts_as_leader():
                    await self._auditing.look(writer, ledger.folded, len(training))
                    await ledger.fold()
                if writer.revision == written:
                    await writer.check()
                written = writer.revision
            except StoreError:
                pass  # the last known progress stays; another task registers again after a lost lease
            await self.world.clock.sleep(look_after_s(len(training)))

    async def _forget_departed(self) -> None:
        """Let the transport forget addresses at which no peer is registered any more."""
        while True:
            self._departed.clear()
            await self.world.transport.forget({record.address for record in self._view.members.values()})
            await self._departed.wait()

    async def read_progress(self) -> None:
        """Read the job's progress and its newest test, and tell the solver. Raises StoreError."""
        await self.progress.look(self.incarnation.ledger)
        self._steer(len(self.training_peers))
        await self.testing.check_last_write()

    def _steer(self, living: int) -> None:
        """Tell the solver the progress of the job and the factor of its learning rate.

        The store's count may be ahead of this peer's: a settlement whose reply has not come yet is in the store's count
        only. For a peer that was always alone the store's count is its own: otherwise the difference would be counted
        as samples of other peers, and some steps would have the learning rate of later ones.
        """
        self._was_alone = self._was_alone and self.alone
        own = self.progress.samples if self._was_alone else self.claims.done_samples
        self.progress.steer(self.trainer.board, own, living)

    @property
    def held_s(self) -> float:
        """The seconds for which the solver has held for tests and snapshots."""
        return self._halting.held_s

    @property
    def throughput(self) -> Throughput:
        """The measured speed of this peer."""
        return self._claiming.throughput

    # ── properties that the parts read ────────────────────────────────────────────────────────────────────────────

    @property
    def training_peers(self) -> Mapping[str, PeerRecord]:
        """The peers that train now, with this one: peer → record."""
        return self._view.in_state(State.TRAINING.value)

    @property
    def alone(self) -> bool:
        """Whether no other peer trains."""
        return not self._live_partners.addresses and not self.training_peers.keys() - {self.peer}

    @property
    def job_samples(self) -> int:
        """Samples of the whole job that were trained, as far as this peer knows; its own count to its last step."""
        return self.trainer.board.job_samples

    @property
    def address(self) -> str:
        """The address at which other peers reach this one."""
        return self.incarnation.registration.record.address

    def partners(self) -> Mapping[str, str]:
        """The peers that can be asked for an exchange: peer → address."""
        return self._live_partners.addresses

    def _address_of(self, peer: str) -> str | None:
        """The address of a peer that has a record, in any state."""
        record = self._view.members.get(peer)
        return record.address if record is not None else None

    def _is_exhausted(self) -> bool:
        """Whether every claimed record is trained, and no chunk is free."""
        state = self._claiming.state
        return (state.is_exhausted or state.has_ended) and not self.trainer.stream.untrained

    @property
    def _leads(self) -> bool:
        """Whether this peer trains, or no peer does, and no training peer has a lower name."""
        training = self.training_peers
        is_one = self.peer in training or not training
        return is_one and not any(peer < self.peer for peer in training)

    def _shard(self) -> list[int]:
        own = {self.peer: self.incarnation.registration.record.weight}
        speeds = own | {peer: record.weight for peer, record in self.training_peers.items()}
        if self.world.spec.settings.strategy == "sync":
            speeds = dict.fromkeys(speeds, 0.0)  # all peers train at one speed: that of the slowest
        weights = planned_weights(speeds)
        epochs = self.world.epochs
        mine: list[int] = self.world.planner.shard(self.peer, weights, epochs.chunks, epochs.seed).tolist()
        return mine

    def _shared(self, outcome: Outcome) -> None:
        """Note that an exchange of this peer was answered: the batches in its snapshot are durable."""
        self.durable(outcome.snapshot.batches, outcome.exchange_id)

    def _half_added(self, partner: str, exchange_id: str) -> None:
        """Note that a half was applied here."""
        self.health.half_added(Half(partner, exchange_id, self.world.clock.monotonic()))

    def _refused(self, partner: str) -> None:
        """Note that a partner has refused an offer because this peer's weights are too far away."""
        self.health.refused(partner)
        if self.health.is_far(len(self.partners())):
            self.healing.look()

    def durable(self, batches: int, via: str) -> None:
        """Note that the first ``batches`` batches of this peer are shared, by the exchange or checkpoint ``via``."""
        if self.trainer.is_healing:
            return  # these batches were learned by weights that this peer gives up, and are trained again
        self.trainer.note_trained()
        batches = min(batches, self.trainer.board.published.batches)
        self.claims.shared(self.trainer.stream.durable(batches), via)
