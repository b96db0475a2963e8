"""Warm-up exchanges: the first exchanges of a joiner with peers that train, before it claims a chunk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.gossip.codecs.message import Refusal
from gossip_caffe.gossip.protocol.outcome import OutcomeKind
from gossip_caffe.observe.log.events import Event
from gossip_caffe.peer.core.dependencies import PeerDependencies
from gossip_caffe.peer.core.strategy import Strategy
from gossip_caffe.peer.joining.healing import Healing
from gossip_caffe.peer.work.trainer import Trainer

WARM_UP_EXCHANGES = 3
"""The number of warm-up exchanges."""
WARM_UP_S = 5.0
"""Seconds after which one warm-up exchange that succeeded is enough."""
RETRY_AFTER_S = 0.1


class WarmUpPeer(Protocol):
    """The parts of a peer that warm-up exchanges need."""

    world: PeerDependencies
    trainer: Trainer
    peer: str
    strategy: Strategy
    healing: Healing

    def partners(self) -> Mapping[str, str]:
        """The peers that can be asked for an exchange: peer → address."""
        ...


async def warm_up_exchanges(member: WarmUpPeer) -> bool:
    """Exchange with some peers that train, before any chunk is claimed. False when no peer trains any more.

    One exchange is needed: the ledger calls chunks done that were learned after the weights that this peer has loaded.
    The other exchanges bring this peer nearer to the consensus. When a partner refuses because these weights are too
    far away, the mean of the peers that train replaces them first.
    """
    clock, met = member.world.clock, 0
    given_up_at = clock.monotonic() + WARM_UP_S
    while met < WARM_UP_EXCHANGES and (partners := member.partners()):
        outcome = await member.strategy.exchange()
        if outcome is not None and outcome.kind is OutcomeKind.APPLIED:
            met += 1
        elif outcome is not None and outcome.refusal is Refusal.TOO_FAR:
            if not await _approach(member):
                await clock.sleep(RETRY_AFTER_S)
        elif met and clock.monotonic() >= given_up_at:
            break
        else:
            await clock.sleep(RETRY_AFTER_S)
        if met >= len(partners):
            break
    return met > 0


async def _approach(member: WarmUpPeer) -> bool:
    """Replace this peer's weights by the mean of the peers that train; False when no peer answers."""
    try:
        source, mean = await member.healing.mean()
    except EnvironmentProblem:
        return False
    board = member.trainer.board
    own = np.empty(board.size, dtype=np.float32)
    board.snapshot(own)
    board.add_correction((mean - own)[: board.exchanged])
    member.world.log.emit(
        Event.JOINED,
        checkpoint="",
        progress_samples=0,
        layout=member.trainer.layout.fingerprint,
        source=source,
    )
    member.world.say(f"{member.peer}: its weights were too far from those of the others; it takes {source}")
    return True
