"""The event log: one JSON object per line, written by each peer, read by the history checker and the reports.

Each line has ``t`` (wall seconds), ``m`` (monotonic seconds of the writing machine), ``peer`` and ``event``. The other
fields depend on the event and are listed in docs/internals/events.md. A killed writer leaves at most one torn last
line. A full disk may leave more torn lines; the line after each of them still begins on its own. A log is several files
(``parts``); trained batches share lines (``runs``).
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

SCHEMA_VERSION = 3
OLDEST_SCHEMA = 2
"""The oldest schema whose logs hold all that is checked. Its ``trained`` events hold one batch each."""
COMPRESSED = ".gz"


class Event(StrEnum):
    """All kinds of events that a peer logs."""

    STARTED = "started"  # pid, schema, job, budget_samples, records, chunk_records, half_limit, warmup
    STATE = "state"  # old, new, reason
    MEMBER = "member"  # member, old, new: the state of another peer, as this peer sees it
    FOUNDED = "founded"  # checkpoint, digest, layout: this peer made the job's first weights
    LOADED = "loaded"  # checkpoint, digest, pulled_bytes, pull_s, verify_s
    CHECKPOINT_REFUSED = "checkpoint-refused"  # checkpoint, reason
    JOINED = "joined"  # checkpoint, progress_samples, layout: weights loaded, training begins
    RESUMED = "resumed"  # checkpoint, progress_samples, folded, done, freed_samples, reason: a rollback
    CLAIMED = "claimed"  # epoch, chunks, revisions, lease
    BORROWED = "borrowed"  # epoch, chunks: trained unclaimed while the store is away
    SKIPPED = "record-skipped"  # epoch, record, reason: the record is corrupt, and in no batch
    TRAINED = "trained"  # sequence, batches, since_s, gaps_ms, ranges: a run of consecutive batches
    DONE = "done"  # epoch, chunks, revisions, via (id of an exchange or a checkpoint)
    UNKNOWN = "settlement-unknown"  # epoch, chunks, via: the store's reply was not seen
    RELEASED = "released"  # epoch, chunks
    OFFERED = "offered"  # exchange, partner
    EXCHANGED = (
        "exchanged"  # exchange, partner, side, outcome, distance, half_sum, half_norm, ratio, limit, by …
    )
    MPI = "mpi"  # used, rank, size, library, reason: whether weights go to other ranks by MPI from now on
    ROUND = "round"  # round, outcome, members, counts, guest, healed, digest, batches, step_sum, …
    CORRECTED = "corrected"  # half_sum, half_norm, own_norm: a recorded change of the weights
    HALF_APPLIED = (
        "half-applied"  # exchange, partner, half_sum, half_norm: the offering side gave the exchange up
    )
    CHECKPOINTED = "checkpointed"  # checkpoint, digest, progress_samples, contributors, batches
    LEFT_OUT = "left-out"  # peers: left out of a consensus, each with its distance from the others, in halves
    KEPT = "kept-elsewhere"  # checkpoint, url: the remote store has the checkpoint, too
    TESTED = "tested"  # progress_samples, iteration, outputs, seconds
    DISPLAYED = "displayed"  # number, lines: Caffe's output about training, by display and debug_info
    TEST_FAILED = "test-failed"  # progress_samples, cause
    SOLVER_DIED = "solver-died"  # cause, sequences_lost
    SOLVER_BACK = "solver-back"  # sequence: the first batch of the new solver
    HEALED = "healed"  # cause, partner, exchange, source: the consensus replaced the peer's own weights
    LOADER_DIED = "loader-died"  # cause
    PROGRESS = "progress"  # iteration, samples, loss, learning_rate, stalled_share
    CLIP = "clip"  # limit, reason: of gradients while several peers train; 0.0: none
    WEIGHED = "weighed"  # weight, reason: the throughput by which others plan this peer's shard
    CERTIFICATE = (
        "certificate"  # names, job, issuer, serial, ends_s: in use from now on; or fault: files not used
    )
    UNAUTHORIZED = "unauthorized"  # call, caller, claims, reason: a call that its certificate does not allow
    LEASE_LOST = "lease-lost"  # reason
    STORE_FORGOT = (
        "store-forgot"  # written, found: the revision of its last write, and the older one that the store has
    )
    IGNORED = "ignored"  # key, revision, reason: the value in the store is not believed
    PUT_RIGHT = "put-right"  # key, revision, reason: a foreign write or removal was undone
    FORGOT = "forgot"  # checkpoint, why, waited_s, kept: a copy on this disk was removed, and the copies that remain
    FINISHED = "finished"  # checkpoint
    LEFT = "left"  # reason, error
    LOG_GAP = "log-gap"  # dropped: the number of events before this one that the disk did not store
    LOG_PART = "log-part"  # number, schema: the first line of each part of a log, except of the first part


class EventLog(Protocol):
    """The destination of a peer's events."""

    def emit(self, event: Event, **fields: object) -> None:
        """Log one event. It must be cheap."""
        ...


def is_torn(path: Path) -> bool:
    """True if a log ends in the middle of a line: its writer was killed there."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def rounded(value: float, digits: int = 7) -> float:
    """A figure with so many significant digits; most of those that a float has are noise, and a log is full of them."""
    return float(f"{value:.{digits}g}")


class MemoryLog:
    """Events kept in a list, for tests and the simulator."""

    def __init__(self) -> None:
        self.events: list[dict[str, object]] = []

    def emit(self, event: Event, **fields: object) -> None:
        """Append the event to the list."""
        self.events.append({"event": event.value, **fields})


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of one file of a log, compressed or not. A torn line, left by a killed writer, is skipped.

    Raises OSError, EOFError or zlib.error for a compressed file that is damaged.
    """
    with gzip.open(path, "rb") if path.suffix == COMPRESSED else path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event
