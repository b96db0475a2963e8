"""The Protocols through which the exchange uses the peer's weights, threads and log."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.gossip.averaging.bound import Reach
from gossip_caffe.gossip.codecs.message import Message, Refusal
from gossip_caffe.gossip.protocol.one_sided import AppliedHalf
from gossip_caffe.solver.board import SnapshotInfo

Flat = NDArray[np.float32]
P = ParamSpec("P")
T = TypeVar("T")


class Offload(Protocol):
    """Runs a function in another thread than the event loop's, as ``asyncio.to_thread`` does."""

    async def __call__(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` and return its result."""
        ...


class Watcher(Protocol):
    """Is told how this peer answered, in the event loop's thread; its methods must be quick."""

    def applied(self, half: AppliedHalf) -> None:
        """An offer was answered, and this half was applied."""
        ...

    def alone(self, half: AppliedHalf) -> None:
        """The offering side reports that it gave up the exchange of this half, which was applied here."""
        ...

    def too_far(self, offer: Message, reach: Reach) -> None:
        """This offer would move the peer beyond its limit; ``refused`` is called next."""
        ...

    def refused(self, offer: Message, refusal: Refusal, reason: str) -> None:
        """An offer was refused."""
        ...


class Weights(Protocol):
    """The peer's weights, as the exchange needs them. ``WeightBoard`` implements it."""

    @property
    def size(self) -> int:
        """The number of float32 values."""
        ...

    @property
    def exchanged(self) -> int:
        """The number of values, from the first on, that are exchanged. The other values never change."""
        ...

    def snapshot(self, out: Flat) -> SnapshotInfo:
        """Write the first ``out.size`` values of the newest snapshot, with the waiting corrections, to ``out``."""
        ...

    def add_correction(self, delta: Flat) -> None:
        """Copy ``delta``, shape (exchanged,), float32, and let the solver add it between two steps."""
        ...
