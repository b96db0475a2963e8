"""The leaving of a peer: it finishes the chunks that it has begun, shares them, and releases the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gossip_caffe.checkpoint.duty import HeldDuty
from gossip_caffe.errors import EnvironmentProblem, ExchangeFailed, StoreError
from gossip_caffe.peer.checkpoints.checkpointing import Checkpointing
from gossip_caffe.peer.checkpoints.halting import Halting
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.core.lifecycle import Cause, State
from gossip_caffe.peer.core.strategy import Strategy
from gossip_caffe.peer.core.tasks import Tasks
from gossip_caffe.peer.registration.incarnation import Incarnation
from gossip_caffe.peer.work.claiming import LOOK_EVERY_S, Claiming
from gossip_caffe.peer.work.claims import Claims
from gossip_caffe.peer.work.progress import Progress
from gossip_caffe.peer.work.trainer import Trainer

CLOSING_S = 2.0
"""Seconds of the grace that are kept for the end of the children and of the lease; a third of a shorter grace."""
HALT_DEADLINE_S = 8.0
HALT_STEPS = 2.0
"""Steps that are waited for when a lone peer leaves: it has to end its step, however long a step takes."""


@dataclass(frozen=True, slots=True)
class LeavingTimes:
    """Limits in seconds. ``halt_s``: for the end of a lone peer's step; ``settle_s``: for the chunks that are begun."""

    halt_s: float
    settle_s: float


def leaving_times(grace_s: float, step_s: float) -> LeavingTimes:
    """Divide the grace of a peer that leaves. ``step_s``: the seconds of an iteration, 0.0 if unknown.

    A lone peer halts only where a supervisor collects its snapshot, and that supervisor waits for the step by itself:
    the halt is no part of the grace.
    """
    return LeavingTimes(max(HALT_DEADLINE_S, HALT_STEPS * step_s), grace_s - min(CLOSING_S, grace_s / 3))


class DrainingPeer(Protocol):
    """The parts of a peer that ``Draining`` needs. ``incarnation`` changes when the peer registers again."""

    world: PeerDependencies
    trainer: Trainer
    incarnation: Incarnation
    peer: str
    leaving: bool
    strategy: Strategy
    claims: Claims
    progress: Progress
    checkpointing: Checkpointing

    def partners(self) -> Mapping[str, str]:
        """The peers that can be asked for an exchange: peer → address."""
        ...


class Draining:
    """The orderly leaving of one peer."""

    def __init__(self, member: DrainingPeer, claiming: Claiming, halting: Halting) -> None:
        self._member = member
        self._claiming = claiming
        self._halting = halting
        self._made = ""  # the last checkpoint that was made while leaving

    async def drain(self, tasks: Tasks, cause: Cause) -> None:
        """Finish the chunks that are begun, share them, and release the others.

        The time for this is bounded. The end of the lease frees the chunks that were not settled in time, and other
        peers train them again.
        """
        member = self._member
        if member.incarnation.session.lost.is_set():
            # A peer that leaves needs no new lease: under it other peers would count it among those that train.
            await tasks.cancel("lease")
        member.leaving = True
        await self._claiming.end(tasks)
        await tasks.cancel(
            "health", "batches", "exchanges", "checkpoints", "tests", "halts", "progress", "weight"
        )
        if cause is Cause.JOB_FINISHED:
            return
        times = leaving_times(member.world.grace_s, member.trainer.board.step_s)
        await self._halting.leave(times.halt_s)
        try:
            async with member.world.clock.timeout(times.settle_s):
                await self._settle()
        except (StoreError, EnvironmentProblem, ExchangeFailed, TimeoutError) as error:
            why = str(error) or "out of time"
            if left := len(member.claims.owned):
                member.world.warn(f"{member.peer}: leaves {left} chunks unsettled ({why})")
            elif self._made:
                member.world.warn(
                    f"{member.peer}: leaves before the job's store has its last checkpoint ({why})"
                )
            else:
                member.world.warn(f"{member.peer}: leaves without the last checkpoint of its own ({why})")

    async def _settle(self) -> None:
        """Share and settle the chunks that are begun, and release the others.

        Raises StoreError, EnvironmentProblem or ExchangeFailed when a chunk is left unsettled.
        """
        member, trainer, claims = self._member, self._member.trainer, self._member.claims
        handed_back = trainer.stream.take_unbegun()
        if not self._store_is_away:
            await member.incarnation.registration.publish(state=State.DRAINING.value)
            await claims.release(handed_back)
        if trainer.rests:
            trainer.note_trained()
            trainer.stream.give_up_untrained()
        trainer.cut(flush=True)
        trainer.board.set_flush(True)
        while trainer.stream.untrained:
            await member.world.clock.sleep(LOOK_EVERY_S)
            trainer.note_trained()
        # An exchange needs no store: partners take up what this peer learned, although no ledger notes it.
        await self._share_all()
        if self._store_is_away:
            raise StoreError("the store is away")
        await claims.settle()
        await claims.release(list(claims.owned))
        if member.checkpointing.duty.ours:
            # All peers may be leaving: what two of them have shared only with each other would be lost with both.
            await member.progress.look(member.incarnation.ledger)
            await self._make("leaving with the duty", member.checkpointing.duty)
        if self._made:
            # All machines may be leaving, with their disks.
            await member.checkpointing.keep_in_remote_store(self._made)

    async def _make(self, reason: str, held: HeldDuty | None = None) -> None:
        self._made = await self._member.checkpointing.make(reason, held) or self._made

    @property
    def _store_is_away(self) -> bool:
        """Whether the store takes no writes: asking it would only use up the time that is left."""
        return self._claiming.store_is_away

    async def _share_all(self) -> None:
        """Exchange until every trained batch is shared; a lone peer writes a checkpoint instead."""
        member = self._member
        while member.trainer.stream.unsettled:
            member.trainer.board.request_publication()
            if member.partners():
                await member.strategy.pause(await member.strategy.exchange(), urgent=True)
            elif self._store_is_away:
                return  # a checkpoint that cannot be announced settles nothing
            else:
                await self._make("leaving alone")
