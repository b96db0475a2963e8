"""How the learning of many peers becomes one: the seam between a peer that trains and the way in which it shares.

The pairwise exchange (exchanging.py) is one strategy. Others, such as a synchronous mean of everybody or small random
groups, are made of the same things: snapshots and corrections of the board, the members of now, a ``Transport`` that
carries weights and an ``Answerer`` for what others send. What a strategy must keep, whatever it does:

* No step waits for it: it reads snapshots and adds corrections (never-wait).
* It adds a correction once, whole and finite, or not at all (whole-half, finite-weights).
* ``shared`` is called only when others have applied what the snapshot holds (durable-done).
* A peer that does not answer is given up in bounded time; members come and go at any moment.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gossip_caffe.clock import Clock
from gossip_caffe.gossip.message import Refusal
from gossip_caffe.gossip.outcome import Outcome
from gossip_caffe.gossip.seams import Offload
from gossip_caffe.gossip.transport import Answerer, Transport
from gossip_caffe.job.spec import JobSettings
from gossip_caffe.observe.events import EventLog
from gossip_caffe.solver.board import WeightBoard


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a strategy is given.

    ``own``: this peer's name and zone; ``partners``: the living partners of now (peer → address); ``zones``: where each
    of them is (peer → zone); ``shared`` is called with each outcome that others have applied; ``urgent``: whether
    learning waits to leave the peer although no step comes any more; ``blobs``: the sizes of the exchanged blobs.
    """

    peer: str
    job: str
    fingerprint: str
    blobs: tuple[int, ...]
    board: WeightBoard
    settings: JobSettings
    own: Callable[[], tuple[str, str]]
    partners: Callable[[], Mapping[str, str]]
    zones: Callable[[], Mapping[str, str]]
    shared: Callable[[Outcome], None]
    urgent: Callable[[], bool]
    transport: Transport
    offload: Offload | None
    clock: Clock
    rng: random.Random
    log: EventLog


@dataclass(frozen=True, slots=True)
class SharingFigures:
    """What a peer's status says of it: own exchanges by how they ended, and halves that only this side applied.

    ``distance``: the running consensus distance, None before there is one.
    """

    applied: int
    failed: int
    half_applied: int
    mass_error: float
    distance: float | None


class Strategy(Protocol):
    """One peer's way of sharing. Not before ``accept``, and not after ``refuse``, does it answer others."""

    @property
    def answerer(self) -> Answerer:
        """What answers others."""
        ...

    @property
    def figures(self) -> SharingFigures:
        """As of now."""
        ...

    def accept(self) -> None:
        """Answer others from now on: the consensus is loaded."""
        ...

    def refuse(self, refusal: Refusal) -> None:
        """Answer nobody from now on, with this reason."""
        ...

    async def run(self) -> None:
        """Share whenever it is due, for ever."""
        ...

    async def exchange(self) -> Outcome | None:
        """Share once, now; None when there is nobody to share with."""
        ...

    async def pause(self, outcome: Outcome | None, *, urgent: bool) -> None:
        """Leave the others in peace after an exchange; ``urgent``: it was not due, but learning waits to leave."""
        ...


MakeStrategy = Callable[[Surroundings], Strategy]
