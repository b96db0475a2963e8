"""The figures of a run, in addition to its invariants."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from gossip_caffe.observe.checker.goodput import Goodput, goodput
from gossip_caffe.observe.checker.rounds import round_figures
from gossip_caffe.observe.history.run import Life, Run
from gossip_caffe.observe.log.events import Event


@dataclass(frozen=True, slots=True)
class Spread:
    """Durations in seconds: their number, median and 99th percentile.

    Median and percentile are None without durations.
    """

    count: int
    p50_s: float | None
    p99_s: float | None

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """The spread of durations, given in any order."""
        ordered = sorted(seconds)
        return cls(len(ordered), _quantile(ordered, 0.5), _quantile(ordered, 0.99))


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that is at least as large as ``share`` of all values."""
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 6) if ordered else None


@dataclass(frozen=True, slots=True)
class RunCounters:
    """The figures of one run.

    ``kills_survived``: killed peers in a run that finished. ``exchanges``: offers by their outcome. ``detection``:
    seconds from a kill until the first peer no longer counts the dead one as training. ``reclaim``: seconds until
    another peer has claimed the last of its chunks. ``mass_error``: the shift of the sum of all weights by
    half-applied exchanges. ``store_forgot``: the number of times that a peer found its last write missing. The counts
    of records are None when the job's budget and data are not known. ``goodput``: None when these or the pace of the
    peers are not known.
    """

    peers: int
    kills: int
    kills_survived: int
    records_trained: int | None
    records_lost: int | None
    records_twice: int | None
    exchanges: Mapping[str, int]
    half_applied: int
    mass_error: float
    rounds: int
    rounds_partial: int
    rounds_healed: int
    farthest_healed: float
    checkpoints: int
    checkpoint_refusals: int
    resumes: int
    leases_lost: int
    store_forgot: int
    solvers_died: int
    faults: Mapping[str, int]
    detection: Spread
    reclaim: Spread
    goodput: Goodput | None

    def words(self) -> list[tuple[str, str]]:
        """(Name, value) of each figure, as text."""
        said = []
        for name, value in asdict(self).items():
            if isinstance(value, dict):
                shown = ", ".join(f"{key} {_number(entry)}" for key, entry in value.items()) or "none"
            else:
                shown = _number(value)
            said.append((name.replace("_", " "), shown))
        return said


def counters(run: Run) -> RunCounters:
    """Compute the figures of a run."""
    found, killed, rounds = run.account, run.killed(), round_figures(run)
    kinds = Counter(event["event"] for life in run.lives for event in life.events)
    ends = Counter(
        event["outcome"]
        for life in run.lives
        for event in life.of(Event.EXCHANGED)
        if event.get("side") != "answered"
    )
    detected, reclaimed = _took(run, killed)
    return RunCounters(
        peers=len(run.of_peer),
        kills=len(killed),
        kills_survived=len(killed) if run.finished else 0,
        records_trained=found.records_trained if found is not None else None,
        records_lost=found.records_lost if found is not None and run.finished else None,
        records_twice=found.records_twice if found is not None else None,
        exchanges=dict(sorted(ends.items())),
        half_applied=found.half_applied if found is not None else kinds[Event.HALF_APPLIED],
        mass_error=found.mass_error if found is not None else 0.0,
        rounds=rounds.applied,
        rounds_partial=rounds.partial,
        rounds_healed=rounds.healed,
        farthest_healed=rounds.farthest,
        checkpoints=kinds[Event.CHECKPOINTED],
        checkpoint_refusals=kinds[Event.CHECKPOINT_REFUSED],
        resumes=kinds[Event.RESUMED],
        leases_lost=kinds[Event.LEASE_LOST],
        store_forgot=kinds[Event.STORE_FORGOT],
        solvers_died=kinds[Event.SOLVER_DIED],
        faults=dict(sorted(Counter(str(line["fault"]) for line in run.faults()).items())),
        detection=Spread.of(detected),
        reclaim=Spread.of(reclaimed),
        goodput=goodput(run),
    )


def _took(run: Run, killed: Sequence[Life]) -> tuple[list[float], list[float]]:
    """Seconds from each kill until its detection, and until the last chunk of the dead peer was claimed again."""
    gone: dict[str, list[float]] = {}
    claimed: dict[tuple[int, int], list[tuple[float, Life]]] = {}
    for life in run.lives:
        for event in life.of(Event.MEMBER, Event.CLAIMED):
            if "t" not in event:
                continue
            if event["event"] == Event.CLAIMED:
                for number in event["chunks"]:
                    claimed.setdefault((event["epoch"], number), []).append((event["t"], life))
            elif event["old"] == "training" and not event["new"]:
                gone.setdefault(event["member"], []).append(event["t"])
    detected, reclaimed = [], []
    for life in killed:
        if "t" not in life.events[-1]:
            continue
        at = run.killed_t(life)
        if seen := [moment - at for moment in gone.get(life.peer, ()) if moment >= at]:
            detected.append(min(seen))
        again = [
            min(
                (moment - at for moment, owner in claimed[chunk] if owner is not life and moment >= at),
                default=-1.0,
            )
            for chunk in _owned(life)
        ]
        if again and max(again) >= 0:
            reclaimed.append(max(again))
    return detected, reclaimed


def _owned(life: Life) -> set[tuple[int, int]]:
    """The chunks that a life owned at its end."""
    owned: set[tuple[int, int]] = set()
    for event in life.of(Event.CLAIMED, Event.DONE, Event.RELEASED, Event.LEASE_LOST):
        if event["event"] == Event.LEASE_LOST:
            owned.clear()
            continue
        chunks = {(event["epoch"], number) for number in event["chunks"]}
        owned = owned | chunks if event["event"] == Event.CLAIMED else owned - chunks
    return owned


def _number(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return f"{value:,.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
