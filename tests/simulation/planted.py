"""Bugs to be planted into the product, one at a time, and the invariants by which the checker must find them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from gossip_caffe.errors import LeaseLost, StoreError
from gossip_caffe.gossip import offering, payload
from gossip_caffe.gossip.answers import GivenAnswers
from gossip_caffe.gossip.average import Halved
from gossip_caffe.gossip.outcome import OutcomeKind
from gossip_caffe.gossip.party import Party
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.members import Registration
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.membership.store import Put, TxnResult
from gossip_caffe.observe.events import Event
from gossip_caffe.peer import agent, joining, loading
from gossip_caffe.peer.claims import Claims
from gossip_caffe.peer.exchanging import Exchanging
from gossip_caffe.peer.loading import Loaded
from gossip_caffe.peer.trainer import Trainer
from gossip_caffe.peer.training import Training
from gossip_caffe.shards.ledger import Ledger
from gossip_caffe.sim.peer import SimulatedPeer

Patch = pytest.MonkeyPatch


@dataclasses.dataclass(frozen=True)
class Planted:
    """A bug: ``plant`` puts it in; ``faults``: what brings it to light; ``shows``: how it must be reported."""

    what: str
    shows: str
    faults: str
    plant: Callable[[Patch], None]


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

    patch.setattr(Ledger, "fold", early)


def feed_twice(patch: Patch) -> None:
    """A claimed chunk is fed to the solver twice."""
    feed = Trainer.feed

    def twice(self: Trainer, chunk: Any, start: int, stop: int) -> None:
        feed(self, chunk, start, stop)
        if chunk.chunk == 0:
            feed(self, chunk, start, stop)

    patch.setattr(Trainer, "feed", twice)


def borrow_what_is_owned(patch: Patch) -> None:
    """While the store is away a peer borrows what it owns, and forgets that it does (a real one: test_found.py)."""
    borrow = Claims.borrow

    def forgetful(self: Claims, want: int) -> int:
        self._had.clear()
        return borrow(self, want)

    patch.setattr(Claims, "borrow", forgetful)


# ── what is done ──────────────────────────────────────────────────────────────────────────────────────────────────────


def mark_done_when_claimed(patch: Patch) -> None:
    """A chunk is settled as soon as it is owned."""
    claim = Claims.claim

    async def hasty(self: Claims, want: int) -> float:
        pause_s = await claim(self, want)
        self._shared.update(dict.fromkeys(self.owned, "at once"))
        return pause_s

    patch.setattr(Claims, "claim", hasty)


def mark_done_when_offered(patch: Patch) -> None:
    """What was offered counts as shared, whether it was answered or not."""
    exchange = Exchanging.exchange

    async def hopeful(self: Exchanging) -> Any:
        outcome = await exchange(self)
        if outcome is not None and outcome.kind is OutcomeKind.FAILED:
            self._shared(outcome)
        return outcome

    patch.setattr(Exchanging, "exchange", hopeful)


def mark_done_what_came_later(patch: Patch) -> None:
    """An answer settles all that is trained by now, not what the snapshot held."""

    def shared(self: Training, outcome: Any) -> None:
        self.durable(self.trainer.board.batches, outcome.exchange_id)

    patch.setattr(Training, "_shared", shared)


# ── halves ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def apply_a_torn_half(patch: Patch) -> None:
    """Only the first part of a half is added."""

    def apply(self: Party, own_half: Any, apart: float) -> None:
        torn = own_half.copy()
        torn[torn.size // 2 :] = 0.0
        self.weights.add_correction(torn)

    patch.setattr(Party, "apply", apply)


def apply_an_answer_twice(patch: Patch) -> None:
    """A half is added twice."""
    once = Party.apply

    def twice(self: Party, own_half: Any, apart: float) -> None:
        once(self, own_half, apart)
        once(self, own_half, apart)

    patch.setattr(Party, "apply", twice)


def answer_a_repeated_offer_again(patch: Patch) -> None:
    """Given answers are forgotten: an offer that comes twice is applied twice."""
    patch.setattr(GivenAnswers, "find", lambda self, exchange_id: None)


def take_more_than_a_half(patch: Patch) -> None:
    """The offering side moves further than the answering side gave."""
    halved = payload.halved

    def more(sent: Any, theirs: Any, mine: Any) -> Halved:
        found = halved(sent, theirs, mine)
        mine *= 1.2
        return Halved(found.distance, 1.2 * found.total, 1.2 * found.norm)

    patch.setattr(offering, "halved", more)


def let_nan_in(patch: Patch) -> None:
    """A value that is not finite gets into a half, now and then."""
    once = Party.apply

    def poisoned(self: Party, own_half: Any, apart: float) -> None:
        if self.rng.random() < 0.02:
            own_half[0] = np.nan
        once(self, own_half, apart)

    patch.setattr(Party, "apply", poisoned)


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


def take_a_finished_job_back(patch: Patch) -> None:
    """A joiner that finds nobody takes the job back, although it is finished (a real one: test_found.py)."""

    sync = joining.Joining.sync

    class Blind:
        def __init__(self, store: Any, finished: str) -> None:
            self._store, self._finished = store, finished

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

        async def get(self, key: str) -> Any:
            return None if key == self._finished else await self._store.get(key)

    async def blind(self: joining.Joining) -> joining.Synced:
        seen = self._world
        self._world = dataclasses.replace(seen, store=Blind(seen.store, seen.keys.finished))
        return await sync(self)

    patch.setattr(joining.Joining, "sync", blind)


def stumble_over_no_children(patch: Patch) -> None:
    """A peer that could not register stops children that it never had (a real one: test_found.py)."""

    async def stop(self: Trainer) -> None:
        await asyncio.gather(self._solver.stop(), self._loader.stop())

    patch.setattr(Trainer, "stop", stop)


def end_with_the_lease(patch: Patch) -> None:
    """A peer that loses its lease ends."""

    async def end(self: Training) -> None:
        await self.incarnation.session.lost.wait()
        raise LeaseLost(self.incarnation.session.reason)

    patch.setattr(Training, "_keep_registered", end)


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


HANGS = "the job was not finished"
TABLE: Mapping[str, Planted] = {
    plant.__name__: Planted((plant.__doc__ or "").strip(), shows, faults, plant)
    for plant, shows, faults in (
        (drop_the_fence, "single-owner", "freeze,join"),
        (keep_a_forgotten_lease, HANGS, "etcd-back"),
        (settle_without_looking, "single-owner", "freeze,store-cut"),
        (fold_too_early, "full-coverage", "kill,join"),
        (feed_twice, "full-coverage", "none"),
        (borrow_what_is_owned, HANGS, "etcd-away,join,etcd-leader,kill"),
        (mark_done_when_claimed, "durable-done", "none"),
        (mark_done_when_offered, "durable-done", "storm"),
        (mark_done_what_came_later, "durable-done", "slow,storm"),
        (apply_a_torn_half, "whole-half", "none"),
        (apply_an_answer_twice, "whole-half", "none"),
        (answer_a_repeated_offer_again, "whole-half", "storm"),
        (take_more_than_a_half, "whole-half", "none"),
        (let_nan_in, "finite-weights", "none"),
        (join_with_fresh_weights, "same-model", "join,kill"),
        (begin_from_what_was_not_verified, "whole-checkpoint", "join"),
        (take_a_finished_job_back, "full-coverage", "kill,leave,freeze,skew,storm"),
        (stumble_over_no_children, "clean-exit", "etcd-away,join,kill"),
        (end_with_the_lease, "coordinator-loss", "etcd-away,store-cut,freeze"),
        (end_with_the_lease_of_a_joiner, "coordinator-loss", "store-cut,freeze,join,kill"),
        (register_for_ever, "clean-exit", "kill"),
        (wait_for_the_store, "never-wait", "etcd-away,store-cut"),
    )
}
