"""What the exchange asks of its surroundings."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.gossip.message import Message, Refusal
from gossip_caffe.gossip.one_sided import AppliedHalf
from gossip_caffe.solver.board import SnapshotInfo

Flat = NDArray[np.float32]
P = ParamSpec("P")
T = TypeVar("T")


class Offload(Protocol):
    """Runs a function elsewhere than in the event loop's thread: ``asyncio.to_thread``."""

    async def __call__(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``work`` returns."""
        ...


class Watcher(Protocol):
    """Is told how this peer answered; must be cheap."""

    def applied(self, half: AppliedHalf) -> None:
        """An offer was answered, and this half applied."""
        ...

    def alone(self, half: AppliedHalf) -> None:
        """A half that was applied here turns out to be one that the offering side gave up."""
        ...

    def refused(self, offer: Message, refusal: Refusal, reason: str) -> None:
        """An offer was refused."""
        ...


class Weights(Protocol):
    """The peer's weights, as the exchange needs them; the board is one."""

    @property
    def size(self) -> int:
        """How many float32 values."""
        ...

    @property
    def exchanged(self) -> int:
        """How many of them, from the first, are exchanged: the others never change."""
        ...

    def snapshot(self, out: Flat) -> SnapshotInfo:
        """The newest snapshot with everything that still waits to be added; the first ``out.size`` of its values."""
        ...

    def add_correction(self, delta: Flat) -> None:
        """Let the solver add ``delta``, shape (exchanged,), which is copied, between two steps."""
        ...
