"""The history of one run in the form that the checks read: the lives of peers, and the events of an observer."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossip_caffe.errors import NotFound, UsageError
from gossip_caffe.observe.history.account import Account, Budgeted, account
from gossip_caffe.observe.history.resumes import Resume
from gossip_caffe.observe.log.events import OLDEST_SCHEMA, SCHEMA_VERSION, Event, read_events
from gossip_caffe.observe.log.reading import logs_of, read_histories

OBSERVER = "observer.jsonl"
"""A file in the run folder: the injected faults, and the leftovers of the run (docs/internals/verify.md)."""

Line = Mapping[str, Any]
"""One event of a log, with its ``peer``."""

OBSERVED_S = 60.0
"""A kill at most so many seconds after the last event of a life is taken for its end."""

Chunk = tuple[int, int]
"""(Epoch, number of the chunk)."""


@dataclass(frozen=True, slots=True)
class Cutting:
    """The size of the data set and of its chunks."""

    records: int
    chunk_records: int


@dataclass(frozen=True, slots=True)
class Work:
    """The budget and the data of the job."""

    budget_samples: int
    data: Cutting


class Life:
    """The events of one process with a name, in order. ``torn``: its writer was killed in the middle of a line."""

    def __init__(self, peer: str, events: Sequence[Line], torn: bool = False) -> None:
        self.peer = peer
        self.events = events
        self.torn = torn

    def of(self, *kinds: Event) -> Iterator[Line]:
        """Its events of the given kinds, in order."""
        places = sorted(place for kind in dict.fromkeys(kinds) for place in self._places.get(kind.value, ()))
        return (self.events[place] for place in places)

    @functools.cached_property
    def _places(self) -> Mapping[str, Sequence[int]]:
        """Kind → indices of its events. A check asks for few kinds, and most events of a log are of other kinds."""
        places: dict[str, list[int]] = {}
        for place, event in enumerate(self.events):
            places.setdefault(event["event"], []).append(place)
        return places

    @functools.cached_property
    def job(self) -> str:
        """The job that it trained; "" where the log lacks the beginning of this life."""
        return next((str(event.get("job", "")) for event in self.of(Event.STARTED)), "")

    @functools.cached_property
    def left(self) -> Line | None:
        """Its event ``left``; None if it was killed or still runs."""
        return next(self.of(Event.LEFT), None)

    @functools.cached_property
    def ended_at(self) -> float:
        """The wall second of its last event."""
        return float(self.events[-1]["t"])


class Run:
    """The whole history of a run. ``work``: None when no log has the job's budget and data.

    ``missing``: the missing and damaged parts of logs, a sentence each.
    """

    def __init__(
        self,
        lives: Sequence[Life],
        work: Budgeted | None = None,
        seen: Sequence[Line] = (),
        missing: Sequence[str] = (),
    ) -> None:
        self.lives = lives
        self.seen = seen
        self.missing = missing
        self.work = work if work is not None else _work(lives)

    @classmethod
    def of_logs(
        cls,
        logs: Mapping[str, Iterable[Mapping[str, Any]]],
        work: Budgeted | None = None,
        seen: Sequence[Line] = (),
        torn: frozenset[str] = frozenset(),
        missing: Sequence[str] = (),
    ) -> Run:
        """The run of each peer's events, in the order of its log. ``torn``: the logs with a torn last line.

        Raises UsageError for logs of a schema that is too old or unknown, and for logs with gaps.
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
                schema = event.get("schema", SCHEMA_VERSION)
                if not OLDEST_SCHEMA <= schema <= SCHEMA_VERSION:
                    too_old = schema < OLDEST_SCHEMA
                    why = "lacks what is checked" if too_old else "is newer than this version of gossip-caffe"
                    raise UsageError(
                        f"the log of {life.peer} is of schema {schema}, which {why}",
                        remedy="verify it with the version of gossip-caffe that wrote it",
                    )
            for event in life.of(Event.LOG_GAP):
                raise UsageError(
                    f"the log of {life.peer} lacks {event['dropped']} events that its disk did not store",
                    remedy="nothing can be verified of this run; give the next one a disk with room",
                )
        return cls(lives, work, seen, missing)

    @classmethod
    def of_folder(cls, run_dir: Path, work: Budgeted | None = None, job: str = "") -> Run:
        """The run with logs in ``run_dir``/events.

        ``job``: the job to read, where the logs hold several; "" for the only one. Raises NotFound when there are no
        logs of it, and UsageError when none of several jobs is named.
        """
        histories = read_histories(run_dir / "events")
        if not histories:
            raise NotFound(
                f"there are no event logs in {run_dir / 'events'}", remedy="give the --run-dir of the peers"
            )
        observer = run_dir / OBSERVER
        found = cls.of_logs(
            logs_of(histories),
            work,
            seen=list(read_events(observer)) if observer.is_file() else (),
            torn=frozenset(peer for peer, history in histories.items() if history.torn),
            missing=[words for history in histories.values() for words in history.missing],
        )
        return cls(_lives_of(job, found.lives, run_dir / "events"), work, found.seen, found.missing)

    @functools.cached_property
    def of_peer(self) -> Mapping[str, Sequence[Life]]:
        """Name → its lives, in order."""
        found: dict[str, list[Life]] = {}
        for life in self.lives:
            found.setdefault(life.peer, []).append(life)
        return found

    @functools.cached_property
    def finished(self) -> bool:
        """True if any peer logged that the job is finished."""
        return any(True for life in self.lives for _ in life.of(Event.FINISHED))

    @functools.cached_property
    def account(self) -> Account | None:
        """The records learned, lost and trained twice.

        None when the job's budget and data are not known, and when a part of a log is missing.
        """
        if self.work is None or self.missing:
            return None
        logs: dict[str, list[Line]] = {}
        for life in self.lives:
            logs.setdefault(life.peer, []).extend(life.events)
        return account(logs, self.work, store_forgot=bool(self.store_forgot))

    @functools.cached_property
    def gone_back(self) -> Sequence[Resume]:
        """All rollbacks of the job to a checkpoint, in order, except those without a revision."""
        written = [Resume.of(event) for life in self.lives for event in life.of(Event.RESUMED)]
        return sorted(
            (back for back in written if math.isfinite(back.revision)), key=lambda back: back.revision
        )

    @functools.cached_property
    def store_forgot(self) -> tuple[Line, ...]:
        """Events that show that the store lost acknowledged writes; empty if there are none."""
        said = [event for life in self.lives for event in life.of(Event.STORE_FORGOT)]
        if told := [*said, *self.faults("etcd-back")]:
            return (min(told, key=lambda line: float(line["t"])),)
        return next(filter(None, map(_fell, self.of_peer.values())), ())

    def killed(self) -> list[Life]:
        """The lives without an event ``left``."""
        return [life for life in self.lives if life.left is None]

    def killed_t(self, life: Life) -> float:
        """The wall second of the kill of a life, where an observer wrote one down, else of its last event."""
        return max(
            (
                float(line["t"])
                for line in self.faults("kill")
                if line.get("peer") == life.peer and line["t"] <= life.ended_at + OBSERVED_S
            ),
            default=life.ended_at,
        )

    def faults(self, *kinds: str) -> list[Line]:
        """The injected faults of the given kinds; of all kinds if none is given."""
        return [
            line for line in self.seen if line["event"] == "fault" and (not kinds or line["fault"] in kinds)
        ]


def _fell(lives: Sequence[Life]) -> tuple[Line, ...]:
    """Two claims of one name, the later one under another lease and at an older revision; () if there are none."""
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


def _lives_of(job: str, lives: Sequence[Life], events: Path) -> Sequence[Life]:
    """The lives that trained ``job``, or the only job for ""; with the lives whose job is not in the logs."""
    jobs = list(dict.fromkeys(life.job for life in lives if life.job))
    listed = ", ".join(jobs)
    if job and job not in jobs:
        raise NotFound(
            f"there are no event logs of job {job} in {events}", remedy=f"those there are of: {listed}"
        )
    if not job and len(jobs) > 1:
        raise UsageError(
            f"the logs in {events} are of several jobs: {listed}", remedy=f"name one: --job {jobs[-1]}"
        )
    return [life for life in lives if life.job in ("", job or life.job)]


def _work(lives: Sequence[Life]) -> Work | None:
    for life in lives:
        for event in life.of(Event.STARTED):
            if "budget_samples" in event:
                return Work(event["budget_samples"], Cutting(event["records"], event["chunk_records"]))
    return None
