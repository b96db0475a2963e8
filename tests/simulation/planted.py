"""Bugs to be planted into the product, one at a time, and the invariants by which the checker must find them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from gossip_caffe.errors import LeaseLost, StoreError
from gossip_caffe.gossip.averaging.average import HalfStats
from gossip_caffe.gossip.averaging.bound import Bound, Reach
from gossip_caffe.gossip.protocol import offering, payload
from gossip_caffe.gossip.protocol.answer_cache import GivenAnswers
from gossip_caffe.gossip.protocol.local_peer import LocalPeer
from gossip_caffe.gossip.protocol.outcome import OutcomeKind
from gossip_caffe.gossip.rounds.room import Room
from gossip_caffe.gossip.rounds.rows import Row
from gossip_caffe.gossip.rounds.trades import GATHER, Trades
from gossip_caffe.membership.etcd.store import Put, TxnResult
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.members import Registration
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.observe.log.events import Event
from gossip_caffe.peer import agent
from gossip_caffe.peer.core.tasks import Tasks
from gossip_caffe.peer.joining import joining, loading
from gossip_caffe.peer.joining.loading import Loaded
from gossip_caffe.peer.joining.renewing import Renewing
from gossip_caffe.peer.sharing.pairwise import PairwiseStrategy
from gossip_caffe.peer.training import Training
from gossip_caffe.peer.work.claims import Attempt, Claims
from gossip_caffe.peer.work.trainer import Trainer
from gossip_caffe.shards.ledger import Ledger
from gossip_caffe.sim.peer import SimulatedPeer
from tests.simulation import planted_orders

Patch = pytest.MonkeyPatch


@dataclasses.dataclass(frozen=True)
class Planted:
    """A bug: ``plant`` puts it in; ``faults``: what brings it to light; ``shows``: how it must be reported.

    ``strategy``: of the jobs in which it can be found.
    """

    what: str
    shows: str
    faults: str
    plant: Callable[[Patch], None]
    strategy: str = "pairs"


# ── who owns what ─────────────────────────────────────────────────────────────────────────────────────────────────────


def drop_the_fence(patch: Patch) -> None:
    """Writes go through without their guards, whatever became of the lease."""

    async def transact(self: FencedWriter, guards: Any, operations: Any) -> TxnResult:
        bare = [
            dataclasses.replace(entry, lease=0) if isinstance(entry, Put) else entry for entry in operations
        ]
        return await self._store.transact([], bare)

    patch.setattr(FencedWriter, "transact", transact)


def keep_a_forgotten_lease(patch: Patch) -> None:
    """The store forgot what a peer wrote, and the peer renews its lease and waits until it may write again."""
    patch.setattr(LeaseSession, "give_up", lambda self, reason: None)


def settle_without_looking(patch: Patch) -> None:
    """A chunk is settled although it may be another's by now."""
    transact = FencedWriter.transact

    async def unguarded(self: FencedWriter, guards: Any, operations: Any) -> TxnResult:
        settles = any("/done/" in getattr(entry, "key", "") for entry in operations)
        return await transact(self, [] if settles else guards, operations)

    async def renew_ownership(self: Claims, ledger: Ledger, lease: int) -> int:
        self._ledger, self._lease = ledger, lease
        return 0

    patch.setattr(FencedWriter, "transact", unguarded)
    patch.setattr(Claims, "renew_ownership", renew_ownership)


def fold_too_early(patch: Patch) -> None:
    """An epoch is folded while a chunk of it is not done."""
    fold = Ledger.fold

    async def early(self: Ledger) -> int:
        count = self._store.count

        class OneMore:
            def __getattr__(self, name: str) -> Any:
                return getattr(store, name)

            async def count(self, prefix: str) -> int:
                return await count(prefix) + 1

        store = self._store
        self._store = OneMore()
        try:
            return await fold(self)
        finally:
            self._store = store

    async def whole(self: Ledger, epoch: int) -> bool:
        del epoch
        return True

    patch.setattr(Ledger, "fold", early)
    patch.setattr(Ledger, "_is_whole", whole)


def feed_twice(patch: Patch) -> None:
    """A claimed chunk is fed to the solver twice."""
    feed = Trainer.feed

    def twice(self: Trainer, chunk: Any, start: int, stop: int) -> None:
        feed(self, chunk, start, stop)
        if chunk.chunk == 0:
            feed(self, chunk, start, stop)

    patch.setattr(Trainer, "feed", twice)


def train_unclaimed_what_is_owned(patch: Patch) -> None:
    """While the store is away a peer trains owned chunks unclaimed, and forgets its claims (real: test_found.py)."""
    train_unclaimed = Claims.train_unclaimed

    def forgetful(self: Claims, want: int) -> int:
        self._had.clear()
        return train_unclaimed(self, want)

    patch.setattr(Claims, "train_unclaimed", forgetful)


# ── what is done ──────────────────────────────────────────────────────────────────────────────────────────────────────


def mark_done_when_claimed(patch: Patch) -> None:
    """A chunk is settled as soon as it is owned."""
    claim = Claims.claim

    async def hasty(self: Claims, want: int) -> Attempt:
        attempt = await claim(self, want)
        self._shared.update(dict.fromkeys(self.owned, "at once"))
        return attempt

    patch.setattr(Claims, "claim", hasty)


def mark_done_when_offered(patch: Patch) -> None:
    """What was offered counts as shared, whether it was answered or not."""
    exchange = PairwiseStrategy.exchange

    async def hopeful(self: PairwiseStrategy) -> Any:
        outcome = await exchange(self)
        if outcome is not None and outcome.kind is OutcomeKind.FAILED:
            self._shared(outcome)
        return outcome

    patch.setattr(PairwiseStrategy, "exchange", hopeful)


def mark_done_what_came_later(patch: Patch) -> None:
    """An answer settles all that is trained by now, not what the snapshot held."""

    def shared(self: Training, outcome: Any) -> None:
        self.durable(self.trainer.board.batches, outcome.exchange_id)

    patch.setattr(Training, "_shared", shared)


# ── halves ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def apply_a_torn_half(patch: Patch) -> None:
    """Only the first part of a half is added."""

    def apply(self: LocalPeer, own_half: Any, apart: float) -> None:
        torn = own_half.copy()
        torn[torn.size // 2 :] = 0.0
        self.weights.add_correction(torn)

    patch.setattr(LocalPeer, "apply", apply)


def apply_an_answer_twice(patch: Patch) -> None:
    """A half is added twice."""
    once = LocalPeer.apply

    def twice(self: LocalPeer, own_half: Any, apart: float) -> None:
        once(self, own_half, apart)
        once(self, own_half, apart)

    patch.setattr(LocalPeer, "apply", twice)


def answer_a_repeated_offer_again(patch: Patch) -> None:
    """Given answers are forgotten: an offer that comes twice is applied twice."""
    patch.setattr(GivenAnswers, "find", lambda self, exchange_id: None)


def take_more_than_a_half(patch: Patch) -> None:
    """The offering side moves further than the answering side gave."""
    halved = payload.halved

    def more(sent: Any, theirs: Any, mine: Any, *rest: Any) -> HalfStats:
        found = halved(sent, theirs, mine, *rest)
        mine *= 1.2
        return dataclasses.replace(found, total=1.2 * found.total, norm=1.2 * found.norm)

    patch.setattr(offering, "halved", more)


def let_nan_in(patch: Patch) -> None:
    """A value that is not finite gets into a half, now and then."""
    once = LocalPeer.apply

    def poisoned(self: LocalPeer, own_half: Any, apart: float) -> None:
        if self.rng.random() < 0.02:
            own_half[0] = np.nan
        once(self, own_half, apart)

    patch.setattr(LocalPeer, "apply", poisoned)


def apply_whatever_comes(patch: Patch) -> None:
    """A half is applied however long it is."""
    patch.setattr(
        LocalPeer, "reach", lambda self, half: dataclasses.replace(self.bound.reach(half), too_far=False)
    )


def take_itself_for_longer(patch: Patch) -> None:
    """A half is held against eight times the own length."""

    def boastful(self: LocalPeer, half: HalfStats) -> Reach:
        return self.bound.reach(dataclasses.replace(half, own_norm=8 * half.own_norm))

    patch.setattr(LocalPeer, "reach", boastful)


def warm_up_for_ever(patch: Patch) -> None:
    """The limit stays as wide as in the beginning."""
    patch.setattr(Bound, "warming", property(lambda self: True))


# ── beginnings and ends ───────────────────────────────────────────────────────────────────────────────────────────────


def join_with_fresh_weights(patch: Patch) -> None:
    """A joiner exchanges before it has the consensus."""

    async def fresh(self: joining.Joining, listed: Any) -> joining.Synced:
        await self._trainer.start(None)
        return joining.Synced("nowhere", known=False)

    patch.setattr(joining.Joining, "_join", fresh)


def begin_from_what_was_not_verified(patch: Patch) -> None:
    """A joiner reads a checkpoint that is there without verifying it."""
    load = loading.load

    async def trusting(world: Any, peer: str, announcement: Any, layout_fingerprint: str = "") -> Loaded:
        log, lines = world.log, []

        class Deaf:
            def emit(self, event: Event, **fields: object) -> None:
                lines.append((event, fields))

        deaf = dataclasses.replace(world, log=Deaf())
        found = await load(deaf, peer, announcement, layout_fingerprint)
        for event, fields in lines:
            if event is not Event.LOADED:
                log.emit(event, **fields)
        return found

    async def nothing(world: Any, peer: str) -> None:
        return None

    patch.setattr(joining, "load", trusting)
    patch.setattr(agent, "load_early", nothing)


def stumble_over_no_children(patch: Patch) -> None:
    """A peer that could not register stops children that it never had (a real one: test_found.py)."""

    async def stop(self: Trainer) -> None:
        await asyncio.gather(self._solver.stop(), self._loader.stop())

    patch.setattr(Trainer, "stop", stop)


def end_with_the_lease(patch: Patch) -> None:
    """A peer that loses its lease ends."""

    async def end(self: Renewing) -> None:
        await self._member.incarnation.session.lost.wait()
        raise LeaseLost(self._member.incarnation.session.reason)

    patch.setattr(Renewing, "run", end)


def end_with_the_lease_of_a_joiner(patch: Patch) -> None:
    """A peer that loses the store, or its lease, on the way to its weights ends (a real one: test_joining.py)."""

    async def end(self: agent.Agent, incarnation: Any, error: Exception) -> None:
        raise error

    patch.setattr(agent.Agent, "_start_over", end)


def register_for_ever(patch: Patch) -> None:
    """A record does not hang on its lease: it outlives its peer."""
    publish = Registration.publish

    async def lasting(self: Registration, **changes: object) -> None:
        writer = self._writer

        class Bare:
            async def transact(self, guards: Any, operations: Any) -> TxnResult:
                return await writer.transact(
                    guards, [dataclasses.replace(put, lease=0) for put in operations]
                )

        self._writer = Bare()  # type: ignore[assignment]
        try:
            await publish(self, **changes)
        finally:
            self._writer = writer

    patch.setattr(Registration, "publish", lasting)


def wait_for_the_store(patch: Patch) -> None:
    """The solver asks the store before each step."""
    stepping = SimulatedPeer._step

    async def asking(self: SimulatedPeer) -> None:
        advanced = self._world.clock.sleep

        class Asking:
            def __getattr__(self, name: str) -> Any:
                return getattr(clock, name)

            async def sleep(self, seconds: float) -> None:
                await advanced(seconds)
                while True:
                    try:
                        await store.get("anything")
                        return
                    except StoreError:
                        continue

        clock, store, world = self._world.clock, self._world.store, self._world
        self._world = dataclasses.replace(world, clock=Asking())
        await stepping(self)

    patch.setattr(SimulatedPeer, "_step", asking)


# ── what ends unseen ──────────────────────────────────────────────────────────────────────────────────────────────────


def let_the_renewal_end_unseen(patch: Patch) -> None:
    """The renewal of a lease ends by an error that nobody foresaw, and nobody is told (a real one)."""
    patch.setattr(LeaseSession, "_not_renewed", lambda self, error: None)


def let_tasks_end_unseen(patch: Patch) -> None:
    """A task of a peer ends by an error, and the peer goes on without it."""
    spawn = Tasks.spawn

    def deaf(self: Tasks, name: str, work: Any) -> None:
        async def swallowed() -> None:
            try:
                await work
            except (RuntimeError, OSError, ValueError, asyncio.InvalidStateError):
                await asyncio.Event().wait()

        spawn(self, name, swallowed())

    patch.setattr(Tasks, "spawn", deaf)


def leave_without_a_last_word(patch: Patch) -> None:
    """What comes up as a peer leaves keeps it from writing that it has left (a real one)."""

    async def close(self: agent.Agent) -> None:
        if self._training is not None:
            self._training.end()
            self._incarnation = self._training.incarnation
        await self._tasks.cancel()
        await self._trainer.stop()
        await self._end_lease()
        self._log_end(None, None, None)

    patch.setattr(agent.Agent, "_close", close)


HANGS = "the job was not finished"


def apply_half_of_a_mean(patch: Patch) -> None:
    """A round's step is added to the first half of the weights alone."""
    apply = LocalPeer.apply

    def half(self: LocalPeer, step: Any, apart: float) -> None:
        cut = step.copy()
        cut[cut.size // 2 :] = 0.0
        apply(self, cut, apart)

    patch.setattr(LocalPeer, "apply", half)


def apply_what_has_come(patch: Patch) -> None:
    """A member does not wait for means that do not come at once: it leaves their segments as they are."""
    with_all, step = Trades.with_all, Room.step

    async def hastily(self: Trades, phase: str) -> None:
        if phase != GATHER:
            await with_all(self, phase)
            return
        try:
            async with asyncio.timeout(0.1):
                await with_all(self, phase)
        except TimeoutError:
            pass

    def as_far_as_it_came(self: Room) -> HalfStats:
        missing = {*range(len(self.segments))} - {self.index, *self.means}
        for member in missing:
            self.segments = (*self.segments[:member], slice(0, 0), *self.segments[member + 1 :])
            self.means[member] = Row(np.empty(0, np.float32), is_summed=True)
        return step(self)

    patch.setattr(Trades, "with_all", hastily)
    patch.setattr(Room, "step", as_far_as_it_came)


OF_PAIRS: tuple[tuple[Callable[[Patch], None], str, str], ...] = (
    (drop_the_fence, "single-owner", "freeze,join"),
    (keep_a_forgotten_lease, HANGS, "etcd-back"),
    (settle_without_looking, "single-owner", "freeze,store-cut"),
    (fold_too_early, "full-coverage", "kill,join"),
    (feed_twice, "full-coverage", "none"),
    (train_unclaimed_what_is_owned, HANGS, "etcd-away,join,etcd-leader,kill"),
    (mark_done_when_claimed, "durable-done", "none"),
    (mark_done_when_offered, "durable-done", "storm"),
    (mark_done_what_came_later, "durable-done", "slow,storm"),
    (apply_a_torn_half, "whole-half", "none"),
    (apply_an_answer_twice, "whole-half", "none"),
    (answer_a_repeated_offer_again, "whole-half", "storm"),
    (take_more_than_a_half, "whole-half", "none"),
    (let_nan_in, "finite-weights", "none"),
    (apply_whatever_comes, "bounded-half", "poison"),
    (take_itself_for_longer, "bounded-half", "poison"),
    (warm_up_for_ever, "bounded-half", "none"),
    (join_with_fresh_weights, "same-model", "join,kill"),
    (begin_from_what_was_not_verified, "whole-checkpoint", "join"),
    (stumble_over_no_children, "loud-errors", "etcd-away,join,kill"),
    (end_with_the_lease, "coordinator-loss", "etcd-away,store-cut,freeze"),
    (end_with_the_lease_of_a_joiner, "coordinator-loss", "store-cut,freeze,join,kill"),
    (register_for_ever, "clean-exit", "kill"),
    (wait_for_the_store, "never-wait", "etcd-away,store-cut"),
    *planted_orders.ROWS,
    (let_the_renewal_end_unseen, "no-silent-end", "exception"),
    (let_tasks_end_unseen, HANGS, "exception"),
    (leave_without_a_last_word, "clean-exit", "exception,leave"),
)
TABLE: Mapping[str, Planted] = {
    plant.__name__: Planted((plant.__doc__ or "").strip(), shows, faults, plant, strategy)
    for plant, shows, faults, strategy in (
        (apply_half_of_a_mean, "whole-round", "none", "sync"),
        (apply_what_has_come, "whole-round", "storm", "sync"),
        *((*row, "pairs") for row in OF_PAIRS),
    )
}
