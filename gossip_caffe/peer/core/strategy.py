"""The interface of a strategy: the way in which many peers that train share what they learn.

The pairwise exchange (pairwise.py) is one strategy, the synchronous mean of all peers (synchronous.py) another. All
strategies have the same parts: snapshots and corrections of the board, the present members, a ``Transport``
that carries weights, and an ``Answerer`` of other peers' calls. Every strategy must keep these rules:

* No step waits for it: it reads snapshots and adds corrections (never-wait). The synchronous mean (synchronous.py) is
  the exception, by choice.
* It adds a correction once, whole and finite, or not at all (whole-half, finite-weights).
* It adds no correction that is too long in proportion to this peer's weights (bounded-half).
* It calls ``shared`` only when another peer has applied the weights of the snapshot (durable-done).
* It gives up a peer that does not answer in bounded time. Members come and go at any moment.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gossip_caffe.clock import Clock
from gossip_caffe.gossip.codecs.message import Refusal
from gossip_caffe.gossip.policy.cadence import Outlook
from gossip_caffe.gossip.policy.contact import Contact, NoContact
from gossip_caffe.gossip.protocol.outcome import Outcome
from gossip_caffe.gossip.protocol.ports import Offload
from gossip_caffe.gossip.protocol.transport import Answerer, Transport
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.observe.log.events import EventLog
from gossip_caffe.solver.board import WeightBoard


def say_nothing(line: str) -> None:
    """Say nothing: the default of a dependency that prints lines for people."""
    del line


@dataclass(frozen=True, slots=True)
class StrategyContext:
    """The dependencies of a strategy.

    * ``own`` returns this peer's name and zone.
    * ``partners`` returns the present partners (peer → address), ``zones`` their zones (peer → zone).
    * ``members`` returns all peers that have a record, in any state.
    * ``shared`` is called with the outcome of each exchange of this peer that the partner has applied.
    * ``urgent`` returns True while trained batches are not shared yet and the solver has no further batch.
    * ``blobs`` are the sizes of the exchanged blobs, in weights.
    * ``warm`` returns True once the job has left its warm-up.
    * ``say`` prints a line for people; ``contact`` notes which peers answer.
    * ``half_added`` is called with the partner and the exchange id of each half that is applied here.
    * ``refused`` is called with the partner that has refused an offer of this peer as TOO_FAR.
    * ``address`` returns this peer's own address, ``address_of`` that of any peer that has a record, else None.
    * ``serve`` lets an answerer answer other peers, for a strategy that needs this before its peer trains.
    * ``exhausted`` returns True if every claimed record is trained, and none can be claimed now.
    * ``authenticated``: every caller's name is that of its certificate.
    * ``outlook`` returns how long the job is, how far it is, and how many peers train.
    * ``restarting`` returns True while no solver runs, because one has died.
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
    members: Callable[[], Container[str]]
    shared: Callable[[Outcome], None]
    urgent: Callable[[], bool]
    transport: Transport
    offload: Offload | None
    clock: Clock
    rng: random.Random
    log: EventLog
    warm: Callable[[], bool] = lambda: True
    say: Callable[[str], None] = say_nothing
    contact: Contact = field(default_factory=NoContact)
    half_added: Callable[[str, str], None] = lambda partner, exchange_id: None  # noqa: ARG005
    refused: Callable[[str], None] = say_nothing
    address: Callable[[], str] = lambda: ""
    address_of: Callable[[str], str | None] = lambda peer: None  # noqa: ARG005
    serve: Callable[[Answerer], None] = lambda answerer: None  # noqa: ARG005
    exhausted: Callable[[], bool] = lambda: False
    restarting: Callable[[], bool] = lambda: False
    authenticated: bool = False
    outlook: Callable[[], Outlook | None] = lambda: None


@dataclass(frozen=True, slots=True)
class SharingFigures:
    """The figures of a strategy in a peer's status: this peer's exchanges by outcome, and the one-sided ones.

    ``half_applied``: exchanges whose half only this side applied. ``mass_error``: the shift of the sum of all weights
    by these, and by what was cut from halves that were too long. ``distance``: the running mean of the consensus
    distance, None before the first exchange.
    """

    applied: int
    failed: int
    half_applied: int
    mass_error: float
    distance: float | None


class Strategy(Protocol):
    """The strategy of one peer. It answers other peers only after ``accept``, until ``refuse``."""

    @property
    def answerer(self) -> Answerer:
        """The answerer of other peers' calls."""
        ...

    @property
    def figures(self) -> SharingFigures:
        """The present figures."""
        ...

    def accept(self) -> None:
        """Answer other peers from now on: the consensus is loaded."""
        ...

    def refuse(self, refusal: Refusal) -> None:
        """Refuse every offer from now on, with this reason."""
        ...

    async def run(self) -> None:
        """Share whenever it is due, for ever."""
        ...

    async def exchange(self) -> Outcome | None:
        """Share once, now. Returns None when there is no partner."""
        ...

    async def pause(self, outcome: Outcome | None, *, urgent: bool) -> None:
        """Wait after an exchange, as long as its outcome asks for.

        ``urgent``: the exchange was made before it was due, because trained batches wait to be shared.
        """
        ...


MakeStrategy = Callable[[StrategyContext], Strategy]
