"""The consensus of several peers: the mean of their newest snapshots."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.errors import ExchangeFailed
from gossip_caffe.gossip.average import Mean, all_finite
from gossip_caffe.gossip.deadline import first_deadline_s
from gossip_caffe.gossip.message import Message, Refusal
from gossip_caffe.gossip.payload import decoded
from gossip_caffe.gossip.transport import Transport

MAX_CONTRIBUTORS = 8


@dataclass(frozen=True, slots=True)
class Consensus:
    """``weights``: shape (size,), float32; ``contributors``: the peers whose weights are in it."""

    weights: NDArray[np.float32]
    contributors: tuple[str, ...]


async def consensus(
    request: Message,
    own: NDArray[np.float32],
    others: Mapping[str, str],
    transport: Transport,
    rng: random.Random,
    deadline_s: float = 0.0,
) -> Consensus:
    """Own weights and those of up to seven random others (peer → address).

    Who does not answer well within ``deadline_s`` (0: as the size of the weights demands) is left out. Raises
    ExchangeFailed when the own weights are not finite.
    """
    if not all_finite(own):
        raise ExchangeFailed(
            f"the weights of {request.peer} hold NaN or Inf: its training has diverged",
            remedy="lower base_lr, or set clip_gradients in the solver",
        )
    mean = Mean(own.size)
    mean.add(own)
    contributors = await _gather(mean, request, others, MAX_CONTRIBUTORS - 1, transport, rng, deadline_s)
    return Consensus(mean.result(), (request.peer, *contributors))


async def mean_of(
    request: Message,
    size: int,
    peers: Mapping[str, str],
    transport: Transport,
    rng: random.Random,
    deadline_s: float = 0.0,
) -> Consensus | None:
    """The mean of up to eight random peers, without own weights; None when nobody answered."""
    mean = Mean(size)
    contributors = await _gather(mean, request, peers, MAX_CONTRIBUTORS, transport, rng, deadline_s)
    return Consensus(mean.result(), tuple(contributors)) if contributors else None


async def _gather(
    mean: Mean,
    request: Message,
    peers: Mapping[str, str],
    most: int,
    transport: Transport,
    rng: random.Random,
    deadline_s: float,
) -> list[str]:
    contributors = []
    theirs = np.empty(mean.size, dtype=np.float32)
    request = replace(request, values=mean.size)
    deadline_s = deadline_s or first_deadline_s(4 * mean.size)
    for peer in rng.sample(sorted(peers), min(len(peers), most)):
        try:
            answer = await transport.snapshot(peers[peer], request, deadline_s)
        except ExchangeFailed:
            continue
        if answer.refusal is Refusal.NONE and decoded(answer, request.fingerprint, theirs) is None:
            mean.add(theirs)
            contributors.append(peer)
    return contributors
