"""The healing of a peer whose weights are wrong: it goes back to the consensus, and trains the lost batches again.

A peer's weights are wrong when its loss is not finite shortly after it has applied a partner's half, when the weights
themselves are not finite, or when the partners say so (health.py). The steps are those of a joiner:

1. The solver ends. Offers are refused from now on.
2. The newest checkpoint that can be fetched replaces the weights, or else the mean of the peers that train.
3. Exchanges with peers that train bring what was learned since.
4. Another solver goes on with the first batch that no other peer has learned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.errors import CheckpointRefused, EnvironmentProblem, ModelError, NotFound, StoreError
from gossip_caffe.gossip.averaging.average import all_finite
from gossip_caffe.gossip.codecs.message import Refusal
from gossip_caffe.observe.log.events import Event
from gossip_caffe.peer.checkpoints.announcing import listed_of
from gossip_caffe.peer.checkpoints.checkpointing import Checkpointing
from gossip_caffe.peer.core.complaints import Complaints
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.core.lifecycle import State
from gossip_caffe.peer.core.strategy import Strategy
from gossip_caffe.peer.joining.living_mean import mean_of_living
from gossip_caffe.peer.joining.loading import load
from gossip_caffe.peer.registration.incarnation import Incarnation
from gossip_caffe.peer.sharing.health import OwnHealth
from gossip_caffe.peer.work.claiming import STORE_AWAY_PAUSE_S
from gossip_caffe.peer.work.trainer import Trainer
from gossip_caffe.solver.loop import DIVERGED

Flat = NDArray[np.float32]
LOOK_EVERY_S = 5.0
"""Seconds between two looks at whether all of this peer's weights are finite …"""
LOOK_SHARE = 0.01
"""… and the largest share of the time that these looks may take."""
AGAINST_DIVERGENCE = "lower base_lr, set clip_gradients, or create the job with --set lr_scaling=none"


class HealingPeer(Protocol):
    """The parts of a peer that ``Healing`` needs."""

    world: PeerDependencies
    trainer: Trainer
    incarnation: Incarnation
    strategy: Strategy
    checkpointing: Checkpointing
    complaints: Complaints
    health: OwnHealth
    peer: str
    leaving: bool

    def partners(self) -> Mapping[str, str]:
        """The partners that train: peer → address."""
        ...

    async def warm_up_exchanges(self) -> bool:
        """Exchange with some peers that train; False when no peer trains any more."""
        ...


class Healing:
    """The healing of one peer."""

    def __init__(self, member: HealingPeer) -> None:
        self._member = member
        self._world = member.world
        self._wake = asyncio.Event()
        member.trainer.heal = self.go_back

    def look(self) -> None:
        """Look at the weights soon, because a partner has refused them."""
        self._wake.set()

    async def watch(self) -> None:
        """End the solver whenever its weights are found to be wrong, for ever.

        Raises ModelError when no partner's half was applied since this peer began, or was last healed: then its own
        training is the cause.
        """
        member, clock = self._member, self._world.clock
        pause_s = LOOK_EVERY_S
        while True:
            await self._wait(pause_s)
            began = clock.monotonic()
            if cause := await self._cause():
                await member.trainer.end_solver(cause)
            pause_s = max(LOOK_EVERY_S, (clock.monotonic() - began) / LOOK_SHARE)

    async def _wait(self, seconds: float) -> None:
        try:
            async with self._world.clock.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _cause(self) -> str:
        """The reason for which this peer's weights are wrong; "" when nothing shows that they are."""
        member = self._member
        if member.trainer.is_healing:
            return ""
        if member.health.is_far(len(member.partners())):
            return f"its weights are too far from those of {', '.join(member.health.refusers)}"
        weights: Flat = np.empty(member.trainer.layout.size, dtype=np.float32)
        member.trainer.board.snapshot(weights)
        finite = await self._compute(weights)
        if finite or member.trainer.is_healing:
            return ""
        if member.health.last is None:
            raise ModelError(f"{DIVERGED}its weights hold NaN or Inf", remedy=AGAINST_DIVERGENCE)
        return "its weights hold NaN or Inf"

    async def _compute(self, weights: Flat) -> bool:
        if self._world.offload is None or weights.size < 1_000_000:
            return all_finite(weights)
        return await self._world.offload(all_finite, weights)

    async def go_back(self, cause: str, replace: Callable[[Flat], None]) -> None:
        """Let ``replace`` put the consensus, float32 of shape (layout.size,), in the place of this peer's weights.

        No solver runs meanwhile. Raises ModelError when this peer went back shortly before, EnvironmentProblem when no
        other peer trains.
        """
        member, world = self._member, self._world
        last = member.health.last
        after = f"; the last half was added in {last.words}" if last is not None else ""
        if not member.health.goes_back(world.clock.monotonic()):
            raise ModelError(
                f"{cause}{after}: for the second time within ten minutes",
                remedy=f"look at that peer and at this machine's memory, or {AGAINST_DIVERGENCE}",
            )
        world.say(f"{member.peer}: {cause}{after}; it goes back to the consensus")
        member.strategy.refuse(Refusal.NOT_TRAINING)
        member.checkpointing.paused = True
        try:
            await self._publish(State.SYNCING)
            source, weights = await self._consensus()
            replace(weights)
            world.log.emit(
                Event.HEALED,
                cause=cause,
                partner=last.partner if last is not None else "",
                exchange=last.exchange_id if last is not None else "",
                source=source,
            )
            if not await member.warm_up_exchanges():
                raise EnvironmentProblem(
                    f"{cause}{after}, and no other peer trains any more",
                    remedy="start it again: the job goes back to its newest checkpoint, and loses nothing",
                )
        finally:
            member.checkpointing.paused = False
        world.say(f"{member.peer}: it goes on from {source}")
        member.health.last = None
        member.strategy.accept()
        while not await self._publish(State.TRAINING):
            await world.clock.sleep(STORE_AWAY_PAUSE_S)

    async def _publish(self, state: State) -> bool:
        """Publish this peer's state, so that others know whether to ask it; False when the store did not take it."""
        if self._member.leaving:
            return True
        try:
            await self._member.incarnation.registration.publish(state=state.value)
        except StoreError:
            return (
                not self._member.incarnation.session.owns()
            )  # a peer that registers again publishes its state
        return True

    async def _consensus(self) -> tuple[str, Flat]:
        """The name of the newest checkpoint that can be loaded, or else of the mean, and its weights."""
        member, world = self._member, self._world
        fingerprint = member.trainer.layout.fingerprint
        try:
            listed = await listed_of(world)
        except StoreError:
            listed = []
        for announcement in listed:
            try:
                loaded = await load(world, member.peer, announcement, fingerprint)
            except (CheckpointRefused, NotFound, EnvironmentProblem) as error:
                world.log.emit(
                    Event.CHECKPOINT_REFUSED, checkpoint=announcement.checkpoint, reason=error.message
                )
            else:
                return f"checkpoint {announcement.checkpoint}", loaded.weights
        return await self.mean()

    async def mean(self) -> tuple[str, Flat]:
        """A phrase that names the peers that train, and the mean of their weights.

        Raises EnvironmentProblem when no other peer answers.
        """
        member = self._member
        agreed = await mean_of_living(
            self._world, member.peer, member.trainer.layout, member.partners(), member.complaints
        )
        if agreed is None:
            raise EnvironmentProblem(
                "no checkpoint can be loaded, and no other peer trains", remedy="start this peer again"
            )
        return f"the mean of {', '.join(agreed.contributors)}", agreed.weights
