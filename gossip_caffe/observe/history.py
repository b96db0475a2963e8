"""The account of a run, from the event logs of its peers: what was learned, lost and trained twice.

The logs are evidence of their own: nothing here trusts the ledger. A peer that was killed may have settled a chunk and
died before it wrote that down, and one that lost its lease may not know whether the store took a settlement; what it
trained of a chunk that nobody else settled is then credited to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.observe.events import Event, read_events

Mask = NDArray[np.bool_]


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
    ``records_twice``: trainings beyond the first of each record. ``peers_joined`` loaded or founded the weights;
    ``peers_killed`` stopped writing without a last word.
    """

    records_trained: int
    records_lost: int
    records_twice: int
    peers_joined: int
    peers_killed: int
    exchanges: Mapping[str, int]
    checkpoints: int


@dataclass(slots=True)
class _Peer:
    trained: dict[int, Mask] = field(default_factory=dict)
    done: dict[int, set[int]] = field(default_factory=dict)
    unknown: dict[int, set[int]] = field(default_factory=dict)
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
    trainings: dict[int, NDArray[np.uint16]] = {}
    peers: dict[str, _Peer] = {}
    exchanges: Counter[str] = Counter()
    checkpoints = 0
    for name, events in logs.items():
        peer = peers[name] = _Peer()
        for event in events:
            match event["event"]:
                case Event.TRAINED:
                    for epoch, start, stop in event["parts"]:
                        trainings.setdefault(epoch, np.zeros(records, np.uint16))[start:stop] += 1
                        peer.trained.setdefault(epoch, np.zeros(records, np.bool_))[start:stop] = True
                case Event.DONE:
                    peer.done.setdefault(event["epoch"], set()).update(event["chunks"])
                case Event.UNKNOWN:
                    peer.unknown.setdefault(event["epoch"], set()).update(event["chunks"])
                case Event.JOINED | Event.FOUNDED:
                    peer.joined = True
                case Event.LEFT:
                    peer.left = True
                case Event.EXCHANGED:
                    exchanges[event["outcome"]] += 1
                case Event.CHECKPOINTED:
                    checkpoints += 1
    epochs = -(-job.budget_samples // records)
    learned = [_learned(epoch, peers.values(), job.data) for epoch in range(epochs)]
    wanted = [min(records, job.budget_samples - epoch * records) for epoch in range(epochs)]
    return Account(
        records_trained=sum(learned),
        records_lost=sum(max(0, need - have) for need, have in zip(wanted, learned, strict=True)),
        records_twice=sum(
            int(counts.sum(dtype=np.int64)) - int(np.count_nonzero(counts)) for counts in trainings.values()
        ),
        peers_joined=sum(peer.joined for peer in peers.values()),
        peers_killed=sum(not peer.left for peer in peers.values()),
        exchanges=dict(exchanges),
        checkpoints=checkpoints,
    )


def _learned(epoch: int, peers: Iterable[_Peer], data: Cut) -> int:
    """Records of an epoch that some peer trained and settled."""
    learned = np.zeros(data.records, np.bool_)
    peers = list(peers)
    settled_by_all = set().union(*(peer.done.get(epoch, set()) for peer in peers)) if peers else set()
    for peer in peers:
        trained = peer.trained.get(epoch)
        if trained is None:
            continue
        mine = _chunks(peer.done.get(epoch, set()) | (peer.unknown.get(epoch, set()) - settled_by_all), data)
        if not peer.left:
            mine |= ~_chunks(settled_by_all, data)
        learned |= trained & mine
    return int(learned.sum())


def _chunks(chunks: Iterable[int], data: Cut) -> Mask:
    mask = np.zeros(data.records, np.bool_)
    for chunk in chunks:
        mask[chunk * data.chunk_records : (chunk + 1) * data.chunk_records] = True
    return mask
