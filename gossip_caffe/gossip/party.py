"""A peer as its exchanges know it: who it is, its weights, and what offering and answering share."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.clock import Clock
from gossip_caffe.gossip.buffers import Buffers
from gossip_caffe.gossip.codec import CODECS
from gossip_caffe.gossip.crossing import Crossing
from gossip_caffe.gossip.health import running_mean
from gossip_caffe.gossip.message import Message, Refusal
from gossip_caffe.gossip.payload import Reason, objection_to_layout
from gossip_caffe.gossip.seams import Offload, Weights
from gossip_caffe.gossip.swap import Arriving, Leaving, Refused, Swap
from gossip_caffe.solver.board import SnapshotInfo

Flat = NDArray[np.float32]
P = ParamSpec("P")
T = TypeVar("T")

OFFLOAD_FROM_VALUES = 1_000_000
"""Models from this many values on are computed with through ``offload``."""


class Elsewhere:
    """Arithmetic on whole vectors of ``size`` values: here when they are short, else while the event loop turns."""

    def __init__(self, offload: Offload | None, size: int) -> None:
        self._offload = offload
        self._size = size

    async def __call__(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``work`` returns."""
        if self._offload is None or self._size < OFFLOAD_FROM_VALUES:
            return work(*args, **kwargs)
        return await self._offload(work, *args, **kwargs)


class Party:
    """One peer in all its exchanges.

    ``accepting`` is None while offers are answered, else the refusal that they get. ``mean_distance`` is the running
    consensus distance, None before the first exchange. ``blobs``: the sizes of the exchanged blobs.
    """

    def __init__(
        self,
        *,
        peer: str,
        job: str,
        fingerprint: str,
        weights: Weights,
        clock: Clock,
        rng: random.Random,
        offload: Offload | None,
        blobs: Sequence[int],
    ) -> None:
        self.accepting: Refusal | None = Refusal.NOT_TRAINING
        self.mean_distance: float | None = None
        self.peer = peer
        self.job = job
        self.fingerprint = fingerprint
        self.weights = weights
        self.clock = clock
        self.rng = rng
        self.blobs = tuple(blobs)
        self.crossing = Crossing(peer)
        self.buffers = Buffers(weights.exchanged)
        self.compute = Elsewhere(offload, weights.size)

    def rounding(self, codec: str) -> np.random.Generator | None:
        """A generator of one encoding's own: encodings may run in threads, and in any order."""
        return np.random.default_rng(self.rng.getrandbits(64)) if CODECS[codec].stochastic else None

    def apply(self, own_half: Flat, apart: float) -> None:
        """Let the solver add a half."""
        self.weights.add_correction(own_half)
        self.mean_distance = running_mean(self.mean_distance, apart)

    async def swap(self, codec: str, mine: Flat) -> tuple[SnapshotInfo, Swap]:
        """The newest snapshot, into ``mine``, on its way out; the own half will take its place. Raises Refused."""
        snapshot = self.weights.snapshot(mine)
        leaving = await self.compute(Leaving.of, codec, mine, self.blobs, self.rounding(codec))
        if leaving is None:
            raise Refused(Refusal.NON_FINITE, self.holds_nan)
        return snapshot, Swap(leaving, Arriving(codec, leaving))

    @property
    def holds_nan(self) -> str:
        """Why nothing of this peer's can be sent."""
        return f"the weights of {self.peer} hold NaN or Inf"

    def objection(self, offer: Message) -> Reason | None:
        """Why an offer must not be applied now, by its header, or None."""
        if self.accepting is not None:
            return self.accepting, f"{self.peer} does not exchange now"
        if offer.peer == self.peer:
            return Refusal.NOT_TRAINING, f"{self.peer} was asked to exchange with itself"
        if offer.job != self.job:
            return Refusal.LAYOUT_MISMATCH, f"{self.peer} trains job {self.job}, not {offer.job}"
        if (objection := objection_to_layout(offer, self.fingerprint, self.weights.exchanged)) is not None:
            return objection
        if (reason := self.crossing.objection(offer)) is not None:
            return Refusal.CROSSING, reason
        return None

    def message(self, exchange_id: str, codec: str, snapshot: SnapshotInfo | None = None) -> Message:
        """An offer or an answer without its weights."""
        return Message(
            exchange_id=exchange_id,
            peer=self.peer,
            job=self.job,
            fingerprint=self.fingerprint,
            version=snapshot.version if snapshot is not None else 0,
            codec=codec,
            values=self.weights.exchanged,
        )

    def refusal(self, exchange_id: str, refusal: Refusal, reason: str) -> Message:
        """An answer that refuses."""
        return Message(exchange_id, self.peer, self.job, self.fingerprint, refusal=refusal, reason=reason)
