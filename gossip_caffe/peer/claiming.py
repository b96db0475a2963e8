"""What keeps a peer in work: it claims a little ahead of its solver, settles what was shared, bridges a lost store."""

from __future__ import annotations

from collections.abc import Callable

from gossip_caffe.errors import LeaseLost, StoreError
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.peer.claims import Claims
from gossip_caffe.peer.lifecycle import State
from gossip_caffe.peer.pace import claims_wanted
from gossip_caffe.peer.tasks import Tasks
from gossip_caffe.peer.throughput import Throughput
from gossip_caffe.peer.trainer import Trainer
from gossip_caffe.peer.world import World
from gossip_caffe.shards.choice import Chooser

LOOK_EVERY_S = 0.02
STORE_AWAY_PAUSE_S = 0.5
SETTLE_EVERY_S = 0.25
"""At the most: exchanges that follow each other closely are settled together."""
END_CLAIMS_S = 2.0
CREDIT_LOOK_S = 0.1
_TRAINING = State.TRAINING.value


class Claiming:
    """When to claim, and how much. ``session`` is the lease that the peer has now."""

    def __init__(
        self,
        world: World,
        trainer: Trainer,
        claims: Claims,
        chooser: Chooser,
        session: Callable[[], LeaseSession],
    ) -> None:
        self.throughput = Throughput(world.clock)
        self._world = world
        self._trainer = trainer
        self._claims = claims
        self._chooser = chooser
        self._session = session
        self._first_session = session()
        self._goes_on = True
        self._orphans = False
        self._had_work = True
        self._again_at = float("-inf")
        self._dry = False
        """Whether the last look found nothing to claim. Not for so long: who looks seldom would never find it so."""

    async def feed(self) -> None:
        """Keep the solver in batches, for ever. Never asks the store, which may be away and not say so for long."""
        while True:
            self._feed()
            await self._world.clock.sleep(LOOK_EVERY_S)

    def _feed(self) -> None:
        trainer = self._trainer
        trainer.note_trained()
        self._had_work = self._had_work and trainer.stream.untrained
        # With nothing left to claim a short batch is trained rather than waited for, and a short iteration too:
        # but not while the loader still fills what makes it a whole one.
        trainer.cut(flush=self._dry and not trainer.queued_batches)
        trainer.board.set_flush(self._dry and trainer.queued_batches < self._world.spec.iter_size)

    async def claim_and_settle(self) -> None:
        """Own a little more than the solver has trained, and keep the account in the store up to date."""
        clock, claims = self._world.clock, self._claims
        settle_at = float("-inf")
        while self._goes_on:
            try:
                if claims.unsettled_shared and clock.monotonic() >= settle_at:
                    settle_at = clock.monotonic() + SETTLE_EVERY_S
                    await claims.settle()
                left = self._left_behind()
                if want := left + (self._wanted() if clock.monotonic() >= self._again_at else 0):
                    owned = len(claims.owned)
                    pause_s = await claims.claim(want)
                    claimed = len(claims.owned) != owned
                    self._dry = pause_s > 0 or (self._dry and not claimed)
                    self._feed()
                    if not pause_s:
                        continue
                    self._again_at = clock.monotonic() + pause_s
            except LeaseLost:
                pass  # the lease's own task registers again
            except StoreError:
                await clock.sleep(STORE_AWAY_PAUSE_S)
            await clock.sleep(LOOK_EVERY_S)

    async def train_on_credit(self) -> None:
        """While the store is away go on with what is planned for this peer."""
        while self._goes_on:
            # What somebody left is not looked for: only the store says whose it is, and each look would take more.
            if self._session().overdue() and (want := self._wanted()):
                self._dry = not self._claims.borrow(want) and self._dry
            await self._world.clock.sleep(CREDIT_LOOK_S)

    async def end(self, tasks: Tasks) -> None:
        """Claim no more; what is asked of the store now is awaited, or it would be done and nobody would know."""
        self._goes_on = False
        try:
            async with self._world.clock.timeout(END_CLAIMS_S):
                await tasks.ended("claims")
        except TimeoutError:
            await tasks.cancel("claims")

    def member_changed(self, was: PeerRecord | None, now: PeerRecord | None) -> None:
        """Plan again when who trains has changed, or how fast; look for what was left when somebody is gone."""
        before, after = _training_weight(was), _training_weight(now)
        if before != after:
            self._chooser.members_changed(self._world.clock.monotonic())
        if before is not None and after is None and self.is_settled_in:
            self._orphans = True

    @property
    def is_settled_in(self) -> bool:
        """Whether this peer has a lease: its first one, or one that is older than a lease can last unseen.

        When the store was away all are gone: a peer that sees this before it has registered again, or just afterwards,
        sees others that will be back at once. Who has never lost its lease was there all the time, be it for a second.
        """
        session, now_s = self._session(), self._world.clock.monotonic()
        lasts = session is self._first_session or now_s - session.began_at > session.ttl_s
        return session.owns() and lasts

    def always_had_work(self) -> bool:
        """Whether there was something to train ever since the last call."""
        had_work, self._had_work = self._had_work, True
        return had_work

    def _wanted(self) -> int:
        """How many chunks to claim now, to have a little ahead of the solver."""
        data = self._world.spec.data
        return claims_wanted(
            queued_records=self._trainer.stream.waiting_records
            + self._trainer.queued_batches * data.batch_records,
            batch_records=data.batch_records,
            chunk_records=data.chunk_records,
            prefetch_batches=self._world.spec.settings.prefetch_batches,
            records_per_s=self.throughput.samples_per_s,
        )

    def _left_behind(self) -> int:
        """How many chunks more to claim because somebody is gone: all that was left of theirs in what is planned here.

        None of them waits until this peer has trained what it has; and none beyond them is claimed for that, or where
        peers die fast all would claim further and further ahead. One, where the plan for those who remain is yet to be
        made: then a claim makes it.
        """
        if not self._orphans:
            return 0
        left = 1 if self._chooser.plans_next(self._world.clock.monotonic()) else self._chooser.behind()
        self._orphans = left > 0 or self._chooser.plans_later
        return left


def _training_weight(record: PeerRecord | None) -> float | None:
    """The weight of a peer in the plan; None when it does not train."""
    return record.weight if record is not None and record.state == _TRAINING else None
