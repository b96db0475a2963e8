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
from gossip_caffe.gossip.party import Elsewhere
from gossip_caffe.gossip.payload import decoded
from gossip_caffe.gossip.seams import Offload
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
    offload: Offload | None = None,
) -> Consensus:
    """Own weights and those of up to seven random others (peer → address). ``own`` is overwritten by the mean.

    ``offload`` takes the arithmetic of large models out of the event loop's thread.

    Who does not answer well within ``deadline_s`` (0: as the size of the weights demands) is left out. Raises
    ExchangeFailed when the own weights are not finite.
    """
    run = Elsewhere(offload, own.size)
    if not await run(all_finite, own):
        raise ExchangeFailed(
            f"the weights of {request.peer} hold NaN or Inf: its training has diverged",
            remedy="lower base_lr, or set clip_gradients in the solver",
        )
    if not others:
        return Consensus(own, (request.peer,))
    mean = Mean(own.size)
    await run(mean.add, own)
    # From here on its memory serves for what the others send: a large model is not held once more.
    contributors = await _gather(
        mean, own, request, others, MAX_CONTRIBUTORS - 1, transport, rng, deadline_s, run
    )
    return Consensus(await run(mean.result, own), (request.peer, *contributors))


async def mean_of(
    request: Message,
    size: int,
    peers: Mapping[str, str],
    transport: Transport,
    rng: random.Random,
    deadline_s: float = 0.0,
    offload: Offload | None = None,
) -> Consensus | None:
    """The mean of up to eight random peers, without own weights; None when nobody answered."""
    mean = Mean(size)
    theirs, run = np.empty(size, dtype=np.float32), Elsewhere(offload, size)
    contributors = await _gather(
        mean, theirs, request, peers, MAX_CONTRIBUTORS, transport, rng, deadline_s, run
    )
    return Consensus(await run(mean.result, theirs), tuple(contributors)) if contributors else None


async def _gather(
    mean: Mean,
    theirs: NDArray[np.float32],
    request: Message,
    peers: Mapping[str, str],
    most: int,
    transport: Transport,
    rng: random.Random,
    deadline_s: float,
    run: Elsewhere,
) -> list[str]:
    """Add what others send to ``mean``, through ``theirs``, shape (mean.size,); returns who they are."""
    contributors = []
    request = replace(request, values=mean.size)
    deadline_s = deadline_s or first_deadline_s(4 * mean.size)
    for peer in rng.sample(sorted(peers), min(len(peers), most)):
        try:
            answer = await transport.snapshot(peers[peer], request, deadline_s)
        except ExchangeFailed:
            continue
        if answer.refusal is not Refusal.NONE:
            continue
        if await run(decoded, answer, request.fingerprint, theirs) is None:
            await run(mean.add, theirs)
            contributors.append(peer)
    return contributors
