"""What keeps a peer in work: it claims a little ahead of its solver, settles what was shared, bridges a lost store."""

from __future__ import annotations

from collections.abc import Callable

from gossip_caffe.errors import LeaseLost, StoreError
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.peer.claims import Claims
from gossip_caffe.peer.lifecycle import State
from gossip_caffe.peer.pace import can_take_over, claims_wanted, records_ahead, share_of_what_was_left
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
USUALLY_OWNED = 16
"""A peer owns at least so many chunks between two exchanges, when these are short."""


class Claiming:
    """When to claim, and how much. ``session`` is the lease that the peer has now, ``living`` how many peers train."""

    def __init__(
        self,
        world: World,
        trainer: Trainer,
        claims: Claims,
        chooser: Chooser,
        session: Callable[[], LeaseSession],
        living: Callable[[], int],
    ) -> None:
        self.throughput = Throughput(world.clock)
        self._world = world
        self._trainer = trainer
        self._claims = claims
        self._chooser = chooser
        self._session = session
        self._living = living
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
                asks = self._orphans or clock.monotonic() >= self._again_at
                if asks and (want := self._wanted(orphans=self._orphans)):
                    owned = len(claims.owned)
                    pause_s = await claims.claim(want)
                    claimed = len(claims.owned) != owned
                    self._dry = pause_s > 0 or (self._dry and not claimed)
                    self._feed()
                    self._orphans = self._orphans and not pause_s and not claimed
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
            if self._session().overdue() and (want := self._wanted(orphans=False)):
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
        """Whether this peer has a lease, and one that is older than a lease can last unseen.

        When the store was away all are gone: a peer that sees this before it has registered again, or just afterwards,
        sees others that will be back at once.
        """
        session = self._session()
        return session.owns() and self._world.clock.monotonic() - session.began_at > session.ttl_s

    def always_had_work(self) -> bool:
        """Whether there was something to train ever since the last call."""
        had_work, self._had_work = self._had_work, True
        return had_work

    def _wanted(self, *, orphans: bool) -> int:
        """How many chunks to claim now; ``orphans``: and what somebody left, at once, as if nothing was queued."""
        data, prefetch = self._world.spec.data, self._world.spec.settings.prefetch_batches
        batch, records_per_s = data.batch_records, self.throughput.samples_per_s
        queued = self._trainer.stream.waiting_records + self._trainer.queued_batches * batch
        ahead = records_ahead(batch, prefetch, records_per_s)
        orphans = orphans and can_take_over(queued, ahead, data.chunk_records)
        wanted = claims_wanted(
            queued_records=0 if orphans else queued,
            batch_records=batch,
            chunk_records=data.chunk_records,
            prefetch_batches=prefetch,
            records_per_s=records_per_s,
        )
        if not orphans:
            return wanted
        # Not of all that was borrowed while the store was away: others have as much, and were away with it.
        usual = min(len(self._claims.owned), max(USUALLY_OWNED, 4 * wanted))
        return wanted + share_of_what_was_left(usual, self._living())


def _training_weight(record: PeerRecord | None) -> float | None:
    """The weight of a peer in the plan; None when it does not train."""
    return record.weight if record is not None and record.state == _TRAINING else None
