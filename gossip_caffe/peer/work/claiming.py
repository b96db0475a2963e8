"""The work of a peer's solver: chunks are claimed a little ahead of it, and settled once they are shared.

When to claim, and how much, is decided by ``claim_states``. This file observes, asks ``Claims`` for what is decided,
and reports the result to the state machine.
"""

from __future__ import annotations

from collections.abc import Callable

from gossip_caffe.errors import LeaseLost, StoreError
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.core.lifecycle import State
from gossip_caffe.peer.core.tasks import Tasks
from gossip_caffe.peer.work.claim_states import (
    Action,
    ClaimEvent,
    ClaimState,
    Poll,
    decide,
    membership_event,
    step,
)
from gossip_caffe.peer.work.claims import Claims
from gossip_caffe.peer.work.throughput import Throughput, claims_wanted
from gossip_caffe.peer.work.trainer import Trainer
from gossip_caffe.shards.choice import Chooser, PlanAge

LOOK_EVERY_S = 0.02
STORE_AWAY_PAUSE_S = 0.5
SETTLE_EVERY_S = 0.5
"""The shortest time between two settlements: exchanges that follow each other closely are settled together."""
END_CLAIMS_S = 2.0
UNCLAIMED_LOOK_S = 0.1
_TRAINING = State.TRAINING.value


class Claiming:
    """The claims of one peer in time. ``session`` returns its present lease, ``writer`` writes under that lease."""

    def __init__(
        self,
        world: PeerDependencies,
        trainer: Trainer,
        claims: Claims,
        chooser: Chooser,
        session: Callable[[], LeaseSession],
        writer: Callable[[], FencedWriter],
    ) -> None:
        self.throughput = Throughput(world.clock)
        self.state = ClaimState.SUPPLIED
        self.reason = "nothing was claimed yet"
        self._world = world
        self._trainer = trainer
        self._claims = claims
        self._chooser = chooser
        self._session = session
        self._writer = writer
        self._first_session = session()
        self._rests_until = float("-inf")
        self._had_work = True

    async def feed(self) -> None:
        """Keep the solver in batches, for ever. The store is never asked: it may be away and not say so for long."""
        while True:
            self._feed()
            await self._world.clock.sleep(LOOK_EVERY_S)

    def _feed(self) -> None:
        trainer, exhausted = self._trainer, self.state.is_exhausted
        trainer.note_trained()
        self._had_work = self._had_work and trainer.stream.untrained
        # With no chunk left to claim a short batch is trained rather than waited for, and a short iteration too:
        # but not while the loader still fills the batches that make it a whole one.
        trainer.cut(flush=exhausted and not trainer.queued_batches)
        trainer.board.set_flush(exhausted and trainer.queued_batches < self._world.spec.iter_size)

    async def claim_and_settle(self) -> None:
        """Own a little more than the solver has trained, and keep the account in the store up to date."""
        clock, claims = self._world.clock, self._claims
        settle_at = float("-inf")
        while not self.state.has_ended:
            try:
                if (writer := self._writer()).writing.stuck:
                    # A peer that trains unclaimed chunks may write nothing else that would show when this ends.
                    await writer.transact([], [])
                if claims.unsettled_shared and clock.monotonic() >= settle_at:
                    settle_at = clock.monotonic() + SETTLE_EVERY_S
                    await claims.settle()
                if (want := self._decide()) and await self._attempt(want) is Action.TRY_AGAIN:
                    continue
            except LeaseLost:
                self._enter(ClaimEvent.LEASE_LOST)
            except StoreError:
                self._enter(ClaimEvent.STORE_FAILED)
                await clock.sleep(STORE_AWAY_PAUSE_S)
            await clock.sleep(LOOK_EVERY_S)

    async def _attempt(self, want: int) -> Action:
        """Try to claim ``want`` chunks. Raises StoreError or LeaseLost."""
        attempt = await self._claims.claim(want)
        action = self._enter(attempt.event)
        self._feed()
        if action is Action.REST:
            self._rests_until = self._world.clock.monotonic() + attempt.rest_s
        return action

    async def train_unclaimed(self) -> None:
        """While the store is away, or takes no writes, go on with the chunks that are planned for this peer."""
        while not self.state.has_ended:
            if self.store_is_away:
                self._train_unclaimed(self._lacking())
            await self._world.clock.sleep(UNCLAIMED_LOOK_S)

    def _train_unclaimed(self, lacking: int) -> None:
        if lacking and self._enter(ClaimEvent.HUNGRY_WITHOUT_STORE) is Action.TRAIN_UNCLAIMED:
            fed = self._claims.train_unclaimed(lacking)
            self._enter(ClaimEvent.UNCLAIMED_FED if fed else ClaimEvent.NONE_PLANNED)

    async def end(self, tasks: Tasks) -> None:
        """Claim no more. The request that is under way is awaited, or its result would be known to no peer."""
        self._enter(ClaimEvent.END)
        try:
            async with self._world.clock.timeout(END_CLAIMS_S):
                await tasks.ended("claims")
        except TimeoutError:
            await tasks.cancel("claims")

    def member_changed(self, was: PeerRecord | None, now: PeerRecord | None) -> None:
        """Take in the change of one member's record; None where there is none."""
        event = membership_event(_training_weight(was), _training_weight(now), settled_in=self.is_settled_in)
        if event is not None and self._enter(event) is Action.PLAN_AGAIN:
            self._chooser.members_changed(self._world.clock.monotonic())

    @property
    def store_is_away(self) -> bool:
        """True if no write of this peer gets through: the store does not answer, or refuses."""
        return self._session().overdue() or self._writer().writing.stuck

    @property
    def is_settled_in(self) -> bool:
        """False during the first TTL after this peer registered again, and while it has no lease.

        After an outage of etcd all records vanish and come back, so a missing member means nothing then. A peer that
        still has its first lease saw no outage, and is settled in from the first second.
        """
        session, now_s = self._session(), self._world.clock.monotonic()
        lasts = session is self._first_session or now_s - session.began_at > session.ttl_s
        return session.owns() and lasts

    def always_had_work(self) -> bool:
        """True if there was something to train ever since the last call."""
        had_work, self._had_work = self._had_work, True
        return had_work

    def _enter(self, event: ClaimEvent) -> Action:
        """Follow the table; returns the action of the step."""
        found = step(self.state, event)
        self.state, self.reason = found.state, found.reason
        return found.action

    def _decide(self) -> int:
        """The number of chunks to claim now."""
        decision = decide(self.state, self._poll())
        self.state, self.reason = decision.state, decision.reason
        return decision.want

    def _poll(self) -> Poll:
        now_s = self._world.clock.monotonic()
        resting = now_s < self._rests_until
        lacking = 0 if resting else self._lacking()
        if not self.state.takes_over:
            return Poll(lacking, resting)
        plan = self._chooser.plan_age(now_s)
        return Poll(lacking, resting, plan, 0 if plan is PlanAge.DUE else self._chooser.behind())

    def _lacking(self) -> int:
        """The number of chunks that the solver lacks, to have a little work ahead of it; 0 while that is queued."""
        data = self._world.spec.data
        return claims_wanted(
            queued_records=self._trainer.stream.waiting_records
            + self._trainer.queued_batches * data.batch_records,
            batch_records=data.batch_records,
            chunk_records=data.chunk_records,
            prefetch_batches=self._world.spec.settings.prefetch_batches,
            records_per_s=self.throughput.samples_per_s,
        )


def _training_weight(record: PeerRecord | None) -> float | None:
    """The weight of a peer in the plan; None while it does not train."""
    return record.weight if record is not None and record.state == _TRAINING else None
