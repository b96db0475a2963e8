"""What the event logs of a run say about its chunks, for tests: owned, done, handed back, and when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.reading import read_histories
from gossip_caffe.observe.log.runs import one_by_one
from gossip_caffe.shards.epochs import ChunkId
from tests.cluster_run import wait_for


@dataclass
class PeerLog:
    """One peer's chunks. ``claims``: (monotonic seconds, chunk) of every claim, in order."""

    claims: list[tuple[float, ChunkId]] = field(default_factory=list)
    owned: set[ChunkId] = field(default_factory=set)
    done: set[ChunkId] = field(default_factory=set)
    released: set[ChunkId] = field(default_factory=set)
    unknown: set[ChunkId] = field(default_factory=set)
    unclaimed: set[ChunkId] = field(default_factory=set)
    events: list[Mapping[str, Any]] = field(default_factory=list)

    def count(self, event: Event) -> int:
        return sum(entry["event"] == event for entry in self.events)

    def at(self, event: Event, **fields: object) -> list[float]:
        """When (monotonic) such events were written."""
        return [
            entry["m"]
            for entry in self.events
            if entry["event"] == event and all(entry.get(name) == value for name, value in fields.items())
        ]


def read_logs(run_dir: Path) -> dict[str, PeerLog]:
    """The logs of all peers, as they are now; with an event for each batch."""
    return {
        peer: read_log(one_by_one(history.events))
        for peer, history in read_histories(run_dir / "events").items()
    }


def chunks_unclaimed(logs: Mapping[str, PeerLog]) -> int:
    """How many chunks were trained without being owned: what each of them may cost in records trained twice.

    None where the store answers: but a machine that is busy with other things may keep it from that for a moment.
    """
    return sum(len(log.unclaimed) for log in logs.values())


def wait_for_more_done(run_dir: Path, chunks: int) -> None:
    """Until every peer that has a log now has settled so many chunks more."""
    before = {name: len(log.done) for name, log in read_logs(run_dir).items()}
    wait_for(
        f"all have settled {chunks} chunks more",
        lambda: all(len(log.done) >= before[name] + chunks for name, log in read_logs(run_dir).items()),
    )


def read_log(events: Iterable[Mapping[str, Any]]) -> PeerLog:
    log = PeerLog()
    for event in events:
        log.events.append(event)
        chunks = {ChunkId(event["epoch"], chunk) for chunk in event.get("chunks", ())}
        match event["event"]:
            case Event.CLAIMED:
                log.claims += [(event["m"], chunk) for chunk in sorted(chunks, key=str)]
                log.owned |= chunks
                log.released -= chunks
            case Event.DONE:
                log.done |= chunks
                log.owned -= chunks
            case Event.UNKNOWN:
                log.unknown |= chunks
            case Event.BORROWED:
                log.unclaimed |= chunks
            case Event.RELEASED:
                log.released |= chunks
                log.owned -= chunks
    return log
