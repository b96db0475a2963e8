"""The account of a run, from the event logs of its peers: records learned, lost and trained twice.

The logs are evidence of their own: this module does not trust the ledger. A killed peer may have settled a chunk and
died before it logged that. A peer that lost its lease may not know whether the store took a settlement. If no other
peer settled such a chunk, its training is credited to that peer. When a job was rolled back to a checkpoint because no
peer lived, training from before that is not in the checkpoint does not count. There is one exception: a peer that was
only frozen meanwhile still has its weights, so its earlier training counts once it claims the chunk again and settles
it.
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

from gossip_caffe.errors import NotFound
from gossip_caffe.observe.history.resumes import Reading, Resume
from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.reading import logs_of, read_histories
from gossip_caffe.observe.log.runs import one_by_one

Indices = NDArray[np.int64]
Ranges = list[tuple[int, int]]
"""Records as ranges [start, stop).

One peer trains only a part of a large data set, so an array per peer would waste memory.
"""


class DataCut(Protocol):
    """The size of a data set and of its chunks."""

    @property
    def records(self) -> int:
        """The number of records of the data set."""
        ...

    @property
    def chunk_records(self) -> int:
        """The number of records of a chunk."""
        ...


class Budgeted(Protocol):
    """The facts about a job that its account needs."""

    @property
    def budget_samples(self) -> int:
        """The samples to be trained by all peers together."""
        ...

    @property
    def data(self) -> DataCut:
        """The job's data set."""
        ...


@dataclass(frozen=True, slots=True)
class Account:
    """The account of a run. A record counts once per epoch.

    ``records_trained``: learned records of the budget. ``records_lost``: records of the budget that no peer learned.
    ``records_twice``: trainings beyond the first of each record. ``records_skipped``: corrupt records that the job's
    setting leaves out; they are not learned, and not lost. ``peers_joined``: peers that loaded or founded the weights.
    ``peers_killed``: peers whose log ends without ``left``. ``exchanges``: offers by their outcome. ``half_applied``:
    exchanges that the answering side applied and the offering side did not, or was killed before it logged so.
    ``mass_error``: the shift of the sum of all weights by these.
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
    """For a killed peer: the records in an applied exchange or a checkpoint of its own before its end."""
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
    """The account of the logs in ``run_dir``/events. Raises NotFound when a part of a log is missing."""
    histories = read_histories(run_dir / "events")
    for missing in (words for history in histories.values() for words in history.missing):
        raise NotFound(missing, remedy="no account can be made of this run")
    return account(logs_of(histories), job)


def account(
    logs: Mapping[str, Iterable[Mapping[str, Any]]], job: Budgeted, *, store_forgot: bool = False
) -> Account:
    """The account of each peer's events, in the order of its log.

    ``store_forgot``: the store is known to have lost acknowledged writes, whether or not a peer logged so.
    """
    records = job.data.records
    lives = [life for events in logs.values() for life in _lives(events)]
    resumes = [Resume.of(event) for life in lives for event in life if event["event"] == Event.RESUMED]
    forgot = store_forgot or any(event["event"] == Event.STORE_FORGOT for life in lives for event in life)
    peers = [_peer(life, job, resumes, Reading(revisions_hold=not forgot)) for life in lives]
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


def _note_trained(peer: _Peer, event: Mapping[str, Any], data: DataCut, later: Sequence[Resume]) -> None:
    for epoch, start, stop in event["parts"]:
        peer.trained.setdefault(epoch, []).append((start, stop))
        if later:
            _forget(peer, epoch, start, stop, data, later)


def _note_resumed(peer: _Peer) -> None:
    """Record that the peer took the checkpoint's weights, and so lost its own training."""
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
    """The events of one name, with an event for each batch, split where a new process took the name."""
    lives: list[list[Mapping[str, Any]]] = []
    for event in events:
        if not lives or event["event"] == Event.STARTED:
            lives.append([])
        lives[-1].extend(one_by_one([event]))
    return lives


def _peer(
    events: Sequence[Mapping[str, Any]], job: Budgeted, resumes: Sequence[Resume], reading: Reading
) -> _Peer:
    peer = _Peer()
    for event in events:
        reading.read(event)
        later = reading.before(resumes)
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
    """The records that had left a peer before it ended: it may have settled them without logging so."""
    counts = [0]
    for event in events:
        exchanged = event["event"] in {Event.EXCHANGED, Event.ROUND} and event["outcome"] == "applied"
        if exchanged or event["event"] == Event.CHECKPOINTED:
            counts.append(event.get("batches", 0))
    carried: dict[int, Ranges] = {}
    held = max(counts)
    for event in events:
        if event["event"] == Event.TRAINED and event["sequence"] < held:
            for epoch, start, stop in event["parts"]:
                carried.setdefault(epoch, []).append((start, stop))
    return carried


def _kept(event: Mapping[str, Any], later: Iterable[Resume]) -> set[int]:
    """The chunks of an event that no later rollback freed."""
    epoch = event["epoch"]
    return {chunk for chunk in event["chunks"] if all(resume.keeps(epoch, chunk) for resume in later)}


def _forget(peer: _Peer, epoch: int, start: int, stop: int, data: DataCut, later: Iterable[Resume]) -> None:
    """Record the records of [start, stop) whose training a later rollback undid."""
    lost = peer.taken_back.setdefault(epoch, [])
    for chunk in range(start // data.chunk_records, -(-stop // data.chunk_records)):
        if not all(resume.keeps(epoch, chunk) for resume in later):
            first, end = chunk * data.chunk_records, (chunk + 1) * data.chunk_records
            lost.append((max(start, first), min(stop, end)))


def _bring_back(peer: _Peer, event: Mapping[str, Any], data: DataCut, resumes: Iterable[Resume]) -> None:
    """Restore the training of rolled-back chunks that this peer claimed again after the rollback, and settled now."""
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
    """The account of one epoch. A record is learned if some peer trained it and settled its chunk."""
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
    """The records in some ranges except ``but``, ascending, and for each the number of ranges that contain it.

    ``but``: corrupt records, which are planned into batches and left out when the batches are filled.
    """
    inside = [np.arange(0), *(np.arange(start, min(stop, records)) for start, stop in ranges)]
    found, times = np.unique(np.concatenate(inside), return_counts=True)
    kept = ~np.isin(found, list(but))
    return found[kept], times[kept]
