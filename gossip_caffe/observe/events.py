"""The event log: one JSON object a line, written by each peer, read by the history checker and the reports.

Each line has ``t`` (wall seconds), ``m`` (monotonic seconds of the writing machine), ``peer`` and ``event``; the other
fields depend on the event and are listed in docs/events.md. A killed writer leaves at most one torn last line; a disk
that is full may leave others, and the next line begins on its own all the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from gossip_caffe.clock import Clock
from gossip_caffe.errors import EnvironmentProblem

SCHEMA_VERSION = 2


class Event(StrEnum):
    """Everything that a peer writes down."""

    STARTED = "started"  # pid, schema, job, budget_samples, records, chunk_records
    STATE = "state"  # old, new, reason
    MEMBER = "member"  # member, old, new: somebody's state as this peer sees it
    FOUNDED = "founded"  # checkpoint, digest, layout: this peer made the job's first weights
    LOADED = "loaded"  # checkpoint, digest, pulled_bytes, pull_s, verify_s
    CHECKPOINT_REFUSED = "checkpoint-refused"  # checkpoint, reason
    JOINED = "joined"  # checkpoint, progress_samples, layout: weights loaded, training begins
    RESUMED = (
        "resumed"  # checkpoint, progress_samples, folded, done, freed_samples, reason: nobody lived any more
    )
    CLAIMED = "claimed"  # epoch, chunks, revisions, lease
    BORROWED = "borrowed"  # epoch, chunks: the store is away
    SKIPPED = "record-skipped"  # epoch, record, reason: corrupt, and in no batch
    TRAINED = "trained"  # epoch, chunk, records, batch
    DONE = "done"  # epoch, chunks, revisions, via (id of an exchange or a checkpoint)
    UNKNOWN = "settlement-unknown"  # epoch, chunks, via: the store's reply was not seen
    RELEASED = "released"  # epoch, chunks
    OFFERED = "offered"  # exchange, partner
    EXCHANGED = "exchanged"  # exchange, partner, side, outcome, distance, half_sum, half_norm, batches
    CORRECTED = "corrected"  # half_sum, half_norm: what the weights were changed by, where that is watched
    HALF_APPLIED = "half-applied"  # exchange, partner, half_sum, half_norm: the offering side gave it up
    CHECKPOINTED = "checkpointed"  # checkpoint, digest, progress_samples, contributors, batches
    KEPT = "kept-elsewhere"  # checkpoint, url: it is in the job's store, too
    TESTED = "tested"  # progress_samples, iteration, outputs, seconds
    TEST_FAILED = "test-failed"  # progress_samples, cause
    SOLVER_DIED = "solver-died"  # cause, sequences_lost
    SOLVER_BACK = "solver-back"  # sequence: of the batch with which the new one goes on
    LOADER_DIED = "loader-died"  # cause
    PROGRESS = "progress"  # iteration, samples, loss, learning_rate, stalled_share
    WEIGHED = "weighed"  # weight, reason: what others plan this peer's share by
    LEASE_LOST = "lease-lost"  # reason
    STORE_FORGOT = (
        "store-forgot"  # written, found: revisions of its last write, and of what the store has now
    )
    FINISHED = "finished"  # checkpoint
    LEFT = "left"  # reason, error
    LOG_GAP = "log-gap"  # dropped: events that the disk did not take, just before this one


class EventLog(Protocol):
    """Where a peer's events go."""

    def emit(self, event: Event, **fields: object) -> None:
        """Write one event down; must be cheap."""
        ...


class JsonLinesLog:
    """Events appended to a file, each with one write, so that a kill loses at most the last one.

    A disk that takes no more costs events, and not the peer: that is said once, and when the disk takes some again the
    log says how many are missing.
    """

    def __init__(self, path: Path, peer: str, clock: Clock, say: Callable[[str], None] = print) -> None:
        """Raises EnvironmentProblem when there can be no such file."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
            self._torn = is_torn(path)  # an earlier process of that name was killed in the middle of a line
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot write {path} ({error.strerror})", remedy="give another --run-dir, or check its disk"
            ) from error
        self._path = path
        self._peer = peer
        self._clock = clock
        self._say = say
        self._said = False
        self._dropped = 0

    def emit(self, event: Event, **fields: object) -> None:
        """Append the event as one line."""
        if self._dropped:
            if not self._append(Event.LOG_GAP, {"dropped": self._dropped}):
                self._dropped += 1
                return
            self._dropped = 0
        if not self._append(event, fields):
            self._dropped += 1

    def _append(self, event: Event, fields: Mapping[str, object]) -> bool:
        """Whether the whole line is there. What is there of another one ends before the next line begins."""
        head = {
            "t": round(self._clock.wall(), 6),
            "m": round(self._clock.monotonic(), 6),
            "peer": self._peer,
            "event": event.value,
        }
        line = json.dumps({**head, **fields}, separators=(",", ":")).encode() + b"\n"
        rest = b"\n" + line if self._torn else line
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
                self._torn = bool(rest)
        except OSError as error:
            if rest == b"\n":
                return True  # all of it but its end, with which the next line begins
            self._say_once(error)
            return False
        return True

    def _say_once(self, error: OSError) -> None:
        if not self._said:
            self._said = True
            self._say(
                f"{self._peer}: its events cannot be written to {self._path} ({error.strerror}) and are lost"
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def is_torn(path: Path) -> bool:
    """Whether a log ends in the middle of a line: its writer was killed there."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


class MemoryLog:
    """Events kept in a list, for tests and the simulator."""

    def __init__(self) -> None:
        self.events: list[dict[str, object]] = []

    def emit(self, event: Event, **fields: object) -> None:
        """Keep the event."""
        self.events.append({"event": event.value, **fields})


def read_events(path: Path) -> Iterator[dict[str, object]]:
    """Yield the events of one log file; a torn line (its writer was killed) is left out."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.endswith("\n"):
                return
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event
