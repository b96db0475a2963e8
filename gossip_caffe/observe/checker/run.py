"""The history of one run, in the form in which the checks read it: lives of peers, and what somebody outside saw."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossip_caffe.errors import NotFound, UsageError
from gossip_caffe.observe.checker.finding import Line
from gossip_caffe.observe.events import SCHEMA_VERSION, Event, is_torn, read_events
from gossip_caffe.observe.history import Account, Budgeted, account

OBSERVER = "observer.jsonl"
"""In a run folder: what was done to the run from outside, and what it left behind (docs/verify.md)."""

Chunk = tuple[int, int]
"""Epoch, and number of the chunk."""


@dataclass(frozen=True, slots=True)
class Cutting:
    """How the data set is cut."""

    records: int
    chunk_records: int


@dataclass(frozen=True, slots=True)
class Work:
    """What the job has to train."""

    budget_samples: int
    data: Cutting


class Life:
    """The events of one process of a name, in order. ``torn``: its writer was killed in the middle of a line."""

    def __init__(self, peer: str, events: Sequence[Line], torn: bool = False) -> None:
        self.peer = peer
        self.events = events
        self.torn = torn

    def of(self, *kinds: Event) -> Iterator[Line]:
        """Its events of some kinds."""
        places = sorted(place for kind in dict.fromkeys(kinds) for place in self._places.get(kind.value, ()))
        return (self.events[place] for place in places)

    @functools.cached_property
    def _places(self) -> Mapping[str, Sequence[int]]:
        """Where the events of each kind are: a check asks for some kinds, and most lines of a log are of others."""
        places: dict[str, list[int]] = {}
        for place, event in enumerate(self.events):
            places.setdefault(event["event"], []).append(place)
        return places

    @functools.cached_property
    def left(self) -> Line | None:
        """Its last word; None: it was killed, or still runs."""
        return next(self.of(Event.LEFT), None)

    @functools.cached_property
    def ended_at(self) -> float:
        """Wall seconds of its last line."""
        return float(self.events[-1]["t"])


@dataclass(frozen=True, slots=True)
class GoneBack:
    """The job went back to a checkpoint at a ``revision`` of the store."""

    revision: int
    folded: int
    done: Mapping[int, frozenset[int]]

    def keeps(self, epoch: int, chunk: int) -> bool:
        """Whether a chunk that was done stays done."""
        return epoch < self.folded or chunk in self.done.get(epoch, frozenset())


class Run:
    """A run's whole history. ``work``: None when no log says what the job had to train."""

    def __init__(
        self, lives: Sequence[Life], work: Budgeted | None = None, seen: Sequence[Line] = ()
    ) -> None:
        self.lives = lives
        self.seen = seen
        self.work = work if work is not None else _work(lives)

    @classmethod
    def of_logs(
        cls,
        logs: Mapping[str, Iterable[Mapping[str, Any]]],
        work: Budgeted | None = None,
        seen: Sequence[Line] = (),
        torn: frozenset[str] = frozenset(),
    ) -> Run:
        """The run of each peer's events, in the order in which it wrote them; ``torn``: logs with a torn last line.

        Raises UsageError for logs of an older schema.
        """
        lives: list[Life] = []
        for peer, events in logs.items():
            own: list[list[Line]] = []
            for event in events:
                if not own or event["event"] == Event.STARTED:
                    own.append([])
                own[-1].append(event if "peer" in event else {"peer": peer, **event})
            for number, written in enumerate(own):
                lives.append(Life(peer, written, torn=peer in torn and number == len(own) - 1))
        for life in lives:
            for event in life.of(Event.STARTED):
                if event.get("schema", SCHEMA_VERSION) < SCHEMA_VERSION:
                    raise UsageError(
                        f"the log of {life.peer} is of schema {event['schema']}, which lacks what is checked",
                        remedy="verify it with the version of gossip-caffe that wrote it",
                    )
            for event in life.of(Event.LOG_GAP):
                raise UsageError(
                    f"the log of {life.peer} lacks {event['dropped']} events, which its disk did not take",
                    remedy="nothing can be verified of this run; give the next one a disk with room",
                )
        return cls(lives, work, seen)

    @classmethod
    def of_folder(cls, run_dir: Path, work: Budgeted | None = None) -> Run:
        """The run whose logs are in ``run_dir``/events. Raises NotFound when there are none."""
        paths = sorted((run_dir / "events").glob("*.jsonl"))
        if not paths:
            raise NotFound(
                f"there are no event logs in {run_dir / 'events'}", remedy="give the --run-dir of the peers"
            )
        observer = run_dir / OBSERVER
        return cls.of_logs(
            {path.stem: read_events(path) for path in paths},
            work,
            seen=list(read_events(observer)) if observer.is_file() else (),
            torn=frozenset(path.stem for path in paths if is_torn(path)),
        )

    @functools.cached_property
    def of_peer(self) -> Mapping[str, Sequence[Life]]:
        """The lives of each name."""
        found: dict[str, list[Life]] = {}
        for life in self.lives:
            found.setdefault(life.peer, []).append(life)
        return found

    @functools.cached_property
    def finished(self) -> bool:
        """Whether anybody learned that the job is finished."""
        return any(True for life in self.lives for _ in life.of(Event.FINISHED))

    @functools.cached_property
    def account(self) -> Account | None:
        """What was learned, lost and trained twice; None when it is not known what there was to train."""
        if self.work is None:
            return None
        logs: dict[str, list[Line]] = {}
        for life in self.lives:
            logs.setdefault(life.peer, []).extend(life.events)
        return account(logs, self.work)

    @functools.cached_property
    def gone_back(self) -> Sequence[GoneBack]:
        """Every time that the job went back to a checkpoint, in order; those that name no revision are left out."""
        return sorted(
            (
                GoneBack(
                    event["revision"],
                    event["folded"],
                    {int(epoch): frozenset(chunks) for epoch, chunks in event["done"].items()},
                )
                for life in self.lives
                for event in life.of(Event.RESUMED)
                if "revision" in event
            ),
            key=lambda back: back.revision,
        )

    @functools.cached_property
    def store_forgot(self) -> tuple[Line, ...]:
        """Lines that show that the store forgot what it had acknowledged; none: nobody saw that."""
        said = [event for life in self.lives for event in life.of(Event.STORE_FORGOT)]
        if told := [*said, *self.faults("etcd-back")]:
            return (min(told, key=lambda line: float(line["t"])),)
        return next(filter(None, map(_fell, self.of_peer.values())), ())

    def killed(self) -> list[Life]:
        """Lives without a last word."""
        return [life for life in self.lives if life.left is None]

    def faults(self, *kinds: str) -> list[Line]:
        """What was done to the run from outside, of some kinds; without one: all."""
        return [
            line for line in self.seen if line["event"] == "fault" and (not kinds or line["fault"] in kinds)
        ]


def _fell(lives: Sequence[Life]) -> tuple[Line, ...]:
    """Two claims of one name, the later one under another lease and at an older revision; () where there are none."""
    newest: tuple[int, Line] | None = None
    for life in lives:
        for claim in life.of(Event.CLAIMED):
            revisions = claim.get("revisions", ())
            for revision in revisions:
                if newest is not None and revision < newest[0] and claim["lease"] != newest[1]["lease"]:
                    return newest[1], claim
            if revisions and (newest is None or max(revisions) > newest[0]):
                newest = max(revisions), claim
    return ()


def _work(lives: Sequence[Life]) -> Work | None:
    for life in lives:
        for event in life.of(Event.STARTED):
            if "budget_samples" in event:
                return Work(event["budget_samples"], Cutting(event["records"], event["chunk_records"]))
    return None
