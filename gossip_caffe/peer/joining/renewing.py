"""The renewal of a lost lease: the peer owns nothing, trains on, and registers again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gossip_caffe.errors import Conflict, EnvironmentProblem, StoreError
from gossip_caffe.observe.log.events import Event
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.core.lifecycle import Cause, State
from gossip_caffe.peer.joining.resuming import RollbackCount, rollback_count
from gossip_caffe.peer.registration.incarnation import Incarnation
from gossip_caffe.peer.work.claiming import STORE_AWAY_PAUSE_S
from gossip_caffe.peer.work.claims import Claims
from gossip_caffe.peer.work.ranking import tell_rank
from gossip_caffe.peer.work.trainer import Trainer

Enter = Callable[[Cause, str], State]
"""Moves a peer's lifecycle, and returns its new state."""


class RenewingPeer(Protocol):
    """The parts of a peer that ``Renewing`` needs. It replaces ``incarnation`` by the new one."""

    world: PeerDependencies
    trainer: Trainer
    incarnation: Incarnation
    claims: Claims
    rollback_count: RollbackCount


class Renewing:
    """Registers one peer again after each lost lease. ``enter`` moves its lifecycle."""

    def __init__(self, member: RenewingPeer, enter: Enter) -> None:
        self._member = member
        self._enter = enter

    async def run(self) -> None:
        """Wait until the lease is lost; then register as a new incarnation as soon as the store allows it; for ever.

        Meanwhile the peer owns nothing and trains on. Returns once the peer leaves. Raises EnvironmentProblem when the
        store has lost the record of the job's last rollback.
        """
        member = self._member
        world = member.world
        while True:
            before = member.incarnation
            await before.session.lost.wait()
            world.log.emit(Event.LEASE_LOST, reason=before.session.reason)
            state = self._enter(Cause.LEASE_LOST, before.session.reason)
            if state is not State.ORPHANED:
                return  # the peer leaves: its chunks are free, and it needs no new lease
            forgot = False
            while state is State.ORPHANED:
                try:
                    record = before.registration.record
                    member.incarnation = await member.incarnation.again(world, record, State.TRAINING)
                    forgot = forgot or member.incarnation.store_forgot
                    tell_rank(world, member.trainer, member.incarnation)
                    await member.trainer.restart_for_rank()
                    went_back = await self._rollback_count_now()
                    if member.rollback_count.is_forgotten(went_back):
                        raise EnvironmentProblem(
                            "etcd has forgotten that the job went back to a checkpoint, and calls done what no peer's "
                            "weights hold",
                            remedy="start the peers again: the job goes back once more, and loses nothing",
                        )
                    if not forgot and went_back == member.rollback_count:
                        member.incarnation.ledger.recall(before.ledger)
                    lost = await member.claims.renew_ownership(
                        member.incarnation.ledger, member.incarnation.session.id
                    )
                    state = self._enter(Cause.REGISTERED_AGAIN, f"{lost} chunks went to others")
                except (StoreError, Conflict):
                    await world.clock.sleep(STORE_AWAY_PAUSE_S)

    async def _rollback_count_now(self) -> RollbackCount:
        """The rollback count in the store; this peer's own count where the store holds an unreadable record."""
        world = self._member.world
        return await rollback_count(world.store, world.keys, world.ignored.note, self._member.rollback_count)
