"""The account of a run, from the event logs of its peers: what was learned, lost and trained twice.

The logs are evidence of their own: nothing here trusts the ledger. A peer that was killed may have settled a chunk and
died before it wrote that down, and one that lost its lease may not know whether the store took a settlement; what it
trained of a chunk that nobody else settled is then credited to it. When a job went back to a checkpoint because nobody
lived any more, whatever was done before and is not in that checkpoint counts for nothing; but a peer that only stood
still meanwhile has its weights, and what it trained before counts when it owns the chunk again and settles it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gossip_caffe.observe.events import Event, read_events

Indices = NDArray[np.int64]
Ranges = list[tuple[int, int]]
"""[start, stop) of records. A peer trains few of a large data set's: nothing is as long as that for each of them."""


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
    trained: dict[int, Ranges] = field(default_factory=dict)
    carried: dict[int, Ranges] = field(default_factory=dict)
    """Of a peer that was killed: what an applied exchange or a checkpoint of its own took to others before."""
    taken_back: dict[int, Ranges] = field(default_factory=dict)
    taken_back_for_good: dict[int, Ranges] = field(default_factory=dict)
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
    lives = [life for events in logs.values() for life in _lives(events)]
    resumes = [_resume(event) for life in lives for event in life if event["event"] == Event.RESUMED]
    peers = [_peer(life, job, resumes) for life in lives]
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


def _note_trained(peer: _Peer, event: Mapping[str, Any], data: Cut, later: Sequence[_Resume]) -> None:
    for epoch, start, stop in event["parts"]:
        peer.trained.setdefault(epoch, []).append((start, stop))
        if later:
            _forget(peer, epoch, start, stop, data, later)


def _note_resumed(peer: _Peer) -> None:
    """It has the checkpoint's weights now, and lacks what it had trained itself."""
    for epoch, ranges in peer.taken_back.items():
        peer.taken_back_for_good.setdefault(epoch, []).extend(ranges)
    peer.taken_back = {}


def _note_exchange(peer: _Peer, event: Mapping[str, Any]) -> None:
    applied = event["outcome"] == "applied"
    if event.get("side") != "answered":
        peer.exchanges[event["outcome"]] += 1
        if applied and "exchange" in event:
            peer.received.add(event["exchange"])
    elif applied:
        peer.answered[event["exchange"]] = event["half_sum"]


def _lives(events: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The events of one name, cut where a new process took the name."""
    lives: list[list[Mapping[str, Any]]] = []
    for event in events:
        if not lives or event["event"] == Event.STARTED:
            lives.append([])
        lives[-1].append(event)
    return lives


@dataclass(frozen=True, slots=True)
class _Resume:
    """At wall second ``at`` the job went back; what was done then is in ``done`` or an epoch before ``folded``.

    ``revision``: of the store, when that was written down.
    """

    at: float
    revision: float
    folded: int
    done: Mapping[int, frozenset[int]]

    def keeps(self, epoch: int, chunk: int) -> bool:
        return epoch < self.folded or chunk in self.done.get(epoch, frozenset())


def _resume(event: Mapping[str, Any]) -> _Resume:
    done = {int(epoch): frozenset(chunks) for epoch, chunks in event["done"].items()}
    return _Resume(event["t"], event.get("revision", math.inf), event["folded"], done)


def _peer(events: Sequence[Mapping[str, Any]], job: Budgeted, resumes: Iterable[_Resume]) -> _Peer:
    peer, reached = _Peer(), -math.inf
    for event in events:
        # Its clock may be set back: what this life wrote after a resume stays after it.
        reached = max(reached, event.get("t", math.inf))
        later = [resume for resume in resumes if reached < resume.at]
        match event["event"]:
            case Event.TRAINED:
                _note_trained(peer, event, job.data, later)
            case Event.SKIPPED:
                peer.skipped.setdefault(event["epoch"], set()).add(event["record"])
            case Event.DONE:
                peer.done.setdefault(event["epoch"], set()).update(_kept(event, later))
                _bring_back(peer, event, job.data, resumes)
            case Event.UNKNOWN:
                peer.unknown.setdefault(event["epoch"], set()).update(_kept(event, later))
            case Event.JOINED | Event.FOUNDED:
                peer.joined = True
            case Event.RESUMED:
                _note_resumed(peer)
            case Event.LEFT:
                peer.left = True
            case Event.EXCHANGED:
                _note_exchange(peer, event)
            case Event.CHECKPOINTED:
                peer.checkpoints += 1
    if not peer.left:
        peer.carried = _carried(events)
    return peer


def _carried(events: Sequence[Mapping[str, Any]]) -> dict[int, Ranges]:
    """What had left a peer in its batches before it ended: it may have settled that, and not have written so."""
    counts = [0]
    for event in events:
        exchanged = event["event"] == Event.EXCHANGED and event["outcome"] == "applied"
        if exchanged or event["event"] == Event.CHECKPOINTED:
            counts.append(event.get("batches", 0))
    carried: dict[int, Ranges] = {}
    for event in events:
        if event["event"] == Event.TRAINED and event["sequence"] < max(counts):
            for epoch, start, stop in event["parts"]:
                carried.setdefault(epoch, []).append((start, stop))
    return carried


def _kept(event: Mapping[str, Any], later: Iterable[_Resume]) -> set[int]:
    """The chunks of an event that no later resume took back."""
    epoch = event["epoch"]
    return {chunk for chunk in event["chunks"] if all(resume.keeps(epoch, chunk) for resume in later)}


def _forget(peer: _Peer, epoch: int, start: int, stop: int, data: Cut, later: Iterable[_Resume]) -> None:
    """Note the records of [start, stop) whose training a later resume took back."""
    lost = peer.taken_back.setdefault(epoch, [])
    for chunk in range(start // data.chunk_records, -(-stop // data.chunk_records)):
        if not all(resume.keeps(epoch, chunk) for resume in later):
            first, end = chunk * data.chunk_records, (chunk + 1) * data.chunk_records
            lost.append((max(start, first), min(stop, end)))


def _bring_back(peer: _Peer, event: Mapping[str, Any], data: Cut, resumes: Iterable[_Resume]) -> None:
    """Forget that chunks were taken back which this peer owned again after that, and has settled now."""
    epoch = event["epoch"]
    if not (ranges := peer.taken_back.get(epoch)):
        return
    owned_since = zip(event["chunks"], event.get("revisions", ()), strict=False)
    back = {
        chunk
        for chunk, revision in owned_since
        if all(resume.keeps(epoch, chunk) or revision > resume.revision for resume in resumes)
    }
    peer.taken_back[epoch] = [part for part in ranges if part[0] // data.chunk_records not in back]


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
    settled = np.zeros(-(-records // job.data.chunk_records), np.bool_)
    for chunk in settled_by_all:
        settled[chunk : chunk + 1] = True
    for peer in peers:
        if epoch not in peer.trained:
            continue
        trained, times = _counted(peer.trained[epoch], peer.skipped.get(epoch, ()), records)
        chunks = trained // job.data.chunk_records
        unknown = peer.unknown.get(epoch, set()) - settled_by_all
        mine = np.isin(chunks, list(peer.done.get(epoch, set()) | unknown))
        if epoch in peer.carried:
            others_know, _ = _counted(peer.carried[epoch], (), records)
            mine |= ~settled[chunks] & np.isin(trained, others_know)
        if gone := [*peer.taken_back.get(epoch, ()), *peer.taken_back_for_good.get(epoch, ())]:
            lost, often = _counted(gone, (), records)
            again = np.zeros(records, np.int64)
            again[lost] = often
            mine &= times > again[trained]
        learned[trained[mine]] = True
        twice[trained] += times
    skipped = set().union(*(peer.skipped.get(epoch, set()) for peer in peers)) if peers else set()
    skipped = {record for record in skipped if not learned[record]}
    wanted = min(records, job.budget_samples - epoch * records)
    return _Epoch(
        learned=int(learned.sum()),
        lost=max(0, wanted - int(learned.sum()) - len(skipped)),
        twice=int(twice.sum()) - int(np.count_nonzero(twice)),
        skipped=len(skipped),
    )


def _counted(ranges: Ranges, but: Iterable[int], records: int) -> tuple[Indices, Indices]:
    """The records in some ranges, ascending, ``but`` some, and how often each is in one.

    ``but``: corrupt ones; the batches were planned with them, and filled without.
    """
    inside = [np.arange(0), *(np.arange(start, min(stop, records)) for start, stop in ranges)]
    found, times = np.unique(np.concatenate(inside), return_counts=True)
    kept = ~np.isin(found, list(but))
    return found[kept], times[kept]
