"""The account of a run, from the event logs of its peers: what was learned, lost and trained twice.

The logs are evidence of their own: nothing here trusts the ledger. A peer that was killed may have settled a chunk and
died before it wrote that down, and one that lost its lease may not know whether the store took a settlement; what it
trained of a chunk that nobody else settled is then credited to it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.observe.events import Event, read_events

Mask = NDArray[np.bool_]
Counts = NDArray[np.uint16]
"""How often each record of an epoch was trained."""


class Cut(Protocol):
    """How the data set is cut."""

    @property
    def records(self) -> int:
        """Records of the data set."""
        ...

    @property
    def chunk_records(self) -> int:
        """Records of a chunk."""
        ...


class Budgeted(Protocol):
    """What must be known of the job."""

    @property
    def budget_samples(self) -> int:
        """Samples to be trained by all peers together."""
        ...

    @property
    def data(self) -> Cut:
        """The data set."""
        ...


@dataclass(frozen=True, slots=True)
class Account:
    """A record counts once per epoch.

    ``records_trained``: learned, of the budget; ``records_lost``: of the budget and not learned by anybody;
    ``records_twice``: trainings beyond the first of each record. ``records_skipped``: corrupt, left out by the job's
    setting, and learned by nobody; they are not lost. ``peers_joined`` loaded or founded the weights;
    ``peers_killed`` stopped writing without a last word. ``exchanges`` counts offers by how they ended.
    ``half_applied``: exchanges that the answering side applied and the offering side did not, or was killed before it
    wrote so; ``mass_error``: by how much these moved the sum of all weights.
    """

    records_trained: int
    records_lost: int
    records_twice: int
    records_skipped: int
    peers_joined: int
    peers_killed: int
    exchanges: Mapping[str, int]
    half_applied: int
    mass_error: float
    checkpoints: int


@dataclass(slots=True)
class _Peer:
    trained: dict[int, Counts] = field(default_factory=dict)
    skipped: dict[int, set[int]] = field(default_factory=dict)
    done: dict[int, set[int]] = field(default_factory=dict)
    unknown: dict[int, set[int]] = field(default_factory=dict)
    exchanges: Counter[str] = field(default_factory=Counter)
    received: set[str] = field(default_factory=set)
    answered: dict[str, float] = field(default_factory=dict)
    checkpoints: int = 0
    joined: bool = False
    left: bool = False


def account_of(run_dir: Path, job: Budgeted) -> Account:
    """The account of the logs in ``run_dir``/events."""
    return account(
        {path.stem: read_events(path) for path in sorted((run_dir / "events").glob("*.jsonl"))}, job
    )


def account(logs: Mapping[str, Iterable[Mapping[str, Any]]], job: Budgeted) -> Account:
    """The account of each peer's events, in the order in which it wrote them."""
    records = job.data.records
    peers = [_peer(events, records) for events in logs.values()]
    received = set().union(*(peer.received for peer in peers))
    alone = [
        half_sum for peer in peers for exchange, half_sum in peer.answered.items() if exchange not in received
    ]
    epochs = [_epoch(epoch, peers, job) for epoch in range(-(-job.budget_samples // records))]
    return Account(
        records_trained=sum(epoch.learned for epoch in epochs),
        records_lost=sum(epoch.lost for epoch in epochs),
        records_twice=sum(epoch.twice for epoch in epochs),
        records_skipped=sum(epoch.skipped for epoch in epochs),
        peers_joined=sum(peer.joined for peer in peers),
        peers_killed=sum(not peer.left for peer in peers),
        exchanges=dict(sum((peer.exchanges for peer in peers), Counter())),
        half_applied=len(alone),
        mass_error=math.fsum(alone),
        checkpoints=sum(peer.checkpoints for peer in peers),
    )


def _note_exchange(peer: _Peer, event: Mapping[str, Any]) -> None:
    applied = event["outcome"] == "applied"
    if event.get("side") != "answered":
        peer.exchanges[event["outcome"]] += 1
        if applied and "exchange" in event:
            peer.received.add(event["exchange"])
    elif applied:
        peer.answered[event["exchange"]] = event["half_sum"]


def _peer(events: Iterable[Mapping[str, Any]], records: int) -> _Peer:
    peer = _Peer()
    for event in events:
        match event["event"]:
            case Event.TRAINED:
                for epoch, start, stop in event["parts"]:
                    peer.trained.setdefault(epoch, np.zeros(records, np.uint16))[start:stop] += 1
            case Event.SKIPPED:
                peer.skipped.setdefault(event["epoch"], set()).add(event["record"])
            case Event.DONE:
                peer.done.setdefault(event["epoch"], set()).update(event["chunks"])
            case Event.UNKNOWN:
                peer.unknown.setdefault(event["epoch"], set()).update(event["chunks"])
            case Event.JOINED | Event.FOUNDED:
                peer.joined = True
            case Event.LEFT:
                peer.left = True
            case Event.EXCHANGED:
                _note_exchange(peer, event)
            case Event.CHECKPOINTED:
                peer.checkpoints += 1
    for epoch, numbers in peer.skipped.items():  # its batches were planned with them, and filled without
        peer.trained.setdefault(epoch, np.zeros(records, np.uint16))[sorted(numbers)] = 0
    return peer


@dataclass(frozen=True, slots=True)
class _Epoch:
    learned: int
    lost: int
    twice: int
    skipped: int


def _epoch(epoch: int, peers: list[_Peer], job: Budgeted) -> _Epoch:
    """The records of one epoch: learned are those that some peer trained and settled."""
    records = job.data.records
    learned, twice = np.zeros(records, np.bool_), np.zeros(records, np.int64)
    settled_by_all = set().union(*(peer.done.get(epoch, set()) for peer in peers)) if peers else set()
    for peer in peers:
        trained = peer.trained.get(epoch)
        if trained is None:
            continue
        unknown = peer.unknown.get(epoch, set()) - settled_by_all
        mine = _chunks(peer.done.get(epoch, set()) | unknown, job.data)
        if not peer.left:
            mine |= ~_chunks(settled_by_all, job.data)
        learned |= (trained > 0) & mine
        twice += trained
    skipped = set().union(*(peer.skipped.get(epoch, set()) for peer in peers)) if peers else set()
    skipped = {record for record in skipped if not learned[record]}
    wanted = min(records, job.budget_samples - epoch * records)
    return _Epoch(
        learned=int(learned.sum()),
        lost=max(0, wanted - int(learned.sum()) - len(skipped)),
        twice=int(twice.sum()) - int(np.count_nonzero(twice)),
        skipped=len(skipped),
    )


def _chunks(chunks: Iterable[int], data: Cut) -> Mask:
    mask = np.zeros(data.records, np.bool_)
    for chunk in chunks:
        mask[chunk * data.chunk_records : (chunk + 1) * data.chunk_records] = True
    return mask
