"""A peer as its exchanges know it: its name, its weights, and the state that offering and answering share."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.clock import Clock
from gossip_caffe.gossip.averaging.average import HalfStats
from gossip_caffe.gossip.averaging.bound import Bound, Reach
from gossip_caffe.gossip.averaging.buffers import Buffers
from gossip_caffe.gossip.codecs.codec import CODECS
from gossip_caffe.gossip.codecs.message import Message, Refusal
from gossip_caffe.gossip.policy.clip import Clip
from gossip_caffe.gossip.policy.health import running_mean
from gossip_caffe.gossip.policy.offer_rate import OfferRates
from gossip_caffe.gossip.protocol.crossing_offers import Crossing
from gossip_caffe.gossip.protocol.payload import Reason, objection_to_layout
from gossip_caffe.gossip.protocol.ports import Offload, Weights
from gossip_caffe.gossip.protocol.swap import IncomingWeights, OutgoingWeights, Refused, Swap
from gossip_caffe.solver.board import SnapshotInfo

Flat = NDArray[np.float32]
P = ParamSpec("P")
T = TypeVar("T")

OFFLOAD_FROM_VALUES = 1_000_000
"""From this many values on, the arithmetic of a model goes through ``offload``."""


class Offloader:
    """Runs arithmetic on whole vectors of ``size`` values: at once when they are short, else through ``offload``."""

    def __init__(self, offload: Offload | None, size: int) -> None:
        self._offload = offload
        self._size = size

    async def __call__(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` and return its result."""
        if self._offload is None or self._size < OFFLOAD_FROM_VALUES:
            return work(*args, **kwargs)
        return await self._offload(work, *args, **kwargs)


class LocalPeer:
    """One peer in all its exchanges.

    ``blobs`` are the sizes of the exchanged blobs, in values. ``half_limit`` and ``warm`` are explained at ``Bound``,
    ``half_clip`` at ``Clip``. ``limits_rate``: a partner that offers too often is refused.

    A new peer refuses offers as NOT_TRAINING until ``accepting`` is set to None.
    """

    def __init__(
        self,
        *,
        name: str,
        job: str,
        fingerprint: str,
        weights: Weights,
        clock: Clock,
        rng: random.Random,
        offload: Offload | None = None,
        blobs: Sequence[int] = (),
        half_limit: float = 0.0,
        half_clip: float = 0.0,
        limits_rate: bool = False,
        warm: Callable[[], bool] = lambda: True,
    ) -> None:
        self._accepting: Refusal | None = Refusal.NOT_TRAINING
        self.generation = 0
        """The number of times that this peer stopped exchanging. A half from an earlier generation is not applied."""
        self._mean_distance: float | None = None
        self.name = name
        self.job = job
        self.fingerprint = fingerprint
        self.weights = weights
        self.clock = clock
        self.rng = rng
        self.blobs = tuple(blobs)
        self.crossing = Crossing(name)
        self.buffers = Buffers(weights.exchanged)
        self.compute = Offloader(offload, weights.size)
        self.bound = Bound(half_limit, weights.exchanged, warm)
        self.clip = Clip(half_clip)
        self.rates = OfferRates() if limits_rate else None

    @property
    def mean_distance(self) -> float | None:
        """The running consensus distance; None before the first exchange."""
        return None if self._mean_distance is None else max(0.0, self._mean_distance)

    @property
    def accepting(self) -> Refusal | None:
        """None while this peer answers offers, else the refusal that they get.

        Setting a refusal also ends the exchanges that have begun: their halves are not applied.
        """
        return self._accepting

    @accepting.setter
    def accepting(self, refusal: Refusal | None) -> None:
        if refusal is not None:
            self.generation += 1
            self.bound.start_over()
            self.clip.start_over()
        self._accepting = refusal

    def rounding(self, codec: str) -> np.random.Generator | None:
        """A generator for one encoding: encodings may run in threads, in any order. None if the codec needs none."""
        return np.random.default_rng(self.rng.getrandbits(64)) if CODECS[codec].stochastic else None

    def apply_half(self, partner: str, own_half: Flat, figures: HalfStats) -> float:
        """Let the solver add a half, as ``apply`` does, but cut if it is too long. Returns the share that is added.

        ``own_half`` is cut in its place.
        """
        share = self.clip.share(figures.norm) if not self.bound.warming else 1.0
        if share < 1.0:
            own_half *= np.float32(share)
        self.apply(own_half, figures.estimate)
        self.clip.note(partner, figures.norm, figures.total, share)
        return share

    def apply(self, own_half: Flat, apart: float) -> None:
        """Let the solver add a half, shape (exchanged,), float32. ``apart``: the estimated distance of both sides."""
        self.weights.add_correction(own_half)
        self.bound.note_applied(math.sqrt(max(0.0, apart)))
        self._mean_distance = running_mean(self._mean_distance, apart)

    def reach(self, half: HalfStats) -> Reach:
        """The distance by which a half would move this peer, and whether it is beyond the limit."""
        return self.bound.reach(half)

    async def swap(self, codec: str, mine: Flat) -> tuple[SnapshotInfo, Swap]:
        """Write the newest snapshot into ``mine``, shape (exchanged,), and make it ready to be swapped.

        The own half replaces the snapshot in ``mine`` during the swap. Raises Refused if the snapshot holds NaN or Inf.
        """
        snapshot = self.weights.snapshot(mine)
        leaving = await self.compute(OutgoingWeights.of, codec, mine, self.blobs, self.rounding(codec))
        if leaving is None:
            raise Refused(Refusal.NON_FINITE, self.holds_nan)
        return snapshot, Swap(leaving, IncomingWeights(codec, leaving, self.bound.warming))

    @property
    def holds_nan(self) -> str:
        """The reason of a refusal because this peer's own weights are not finite."""
        return f"the weights of {self.name} hold NaN or Inf"

    def objection(self, offer: Message) -> Reason | None:
        """The reason why an offer must not be applied now, found from its header; None if there is none."""
        if self.accepting is not None:
            return self.accepting, f"{self.name} does not exchange now"
        if (stranger := self._stranger(offer)) is not None:
            return stranger
        if (objection := objection_to_layout(offer, self.fingerprint, self.weights.exchanged)) is not None:
            return objection
        if (reason := self.crossing.objection(offer)) is not None:
            return Refusal.CROSSING, reason
        return None

    def _stranger(self, offer: Message) -> Reason | None:
        """The reason why an offer is not for this peer, or not one of an exchange."""
        if offer.phase:
            return Refusal.OTHER_ROUND, f"{self.name} takes part in no rounds"
        if offer.peer == self.name:
            return Refusal.NOT_TRAINING, f"{self.name} was asked to exchange with itself"
        if offer.job != self.job:
            return Refusal.LAYOUT_MISMATCH, f"{self.name} trains job {self.job}, not {offer.job}"
        return None

    def message(self, exchange_id: str, codec: str, snapshot: SnapshotInfo | None = None) -> Message:
        """The message of an offer or an answer, without weights."""
        return Message(
            exchange_id=exchange_id,
            peer=self.name,
            job=self.job,
            fingerprint=self.fingerprint,
            version=snapshot.version if snapshot is not None else 0,
            codec=codec,
            values=self.weights.exchanged,
        )

    def refusal(self, exchange_id: str, refusal: Refusal, reason: str) -> Message:
        """The answer that refuses an offer."""
        return Message(exchange_id, self.name, self.job, self.fingerprint, refusal=refusal, reason=reason)
