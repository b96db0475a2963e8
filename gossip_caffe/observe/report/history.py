"""The lanes and lines of a report, computed from a run's history. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gossip_caffe.observe.checker.run import Life, Run
from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.tested import ConsensusTest
from gossip_caffe.observe.report.chart import Bar, Lane, Mark, Series

KINDS = {
    "joining": "#d9d9d9",
    "training": "#7fb2d6",
    "draining": "#b7d7a8",
    "joined": "#009e73",
    "killed": "#c1121f",
    "left": "#555555",
    "solver died": "#e69f00",
    "loader died": "#b58900",
    "lease lost": "#7b4fa3",
}
"""Kind of a lifeline's bar or mark → colour."""
OWNED, OF_THE_KILLED = "owned", "of a killed peer"
SHARES = {OWNED: "#56b4e9", OF_THE_KILLED: "#c1121f"}
_BARS = {"joining": "joining", "syncing": "joining", "training": "training", "draining": "draining"}
_MARKS = {
    Event.SOLVER_DIED: "solver died",
    Event.LOADER_DIED: "loader died",
    Event.LEASE_LOST: "lease lost",
}


class Times:
    """Seconds since the first event of a run."""

    def __init__(self, run: Run) -> None:
        self.begin = min(float(life.events[0]["t"]) for life in run.lives)
        self.length = max(life.ended_at for life in run.lives) - self.begin

    def of(self, event: Mapping[str, Any]) -> float:
        """The time of an event, in seconds since the first event of the run."""
        return float(event["t"]) - self.begin


def ordered(names: Iterable[str]) -> list[str]:
    """The names in natural order: p2 before p10."""
    return sorted(names, key=lambda name: (len(name), name))


# ── lanes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def lifelines(run: Run, times: Times) -> list[Lane]:
    """A lane for each peer: its states and its events."""
    rows = []
    for peer in ordered(run.of_peer):
        bars: list[Bar] = []
        marks: list[Mark] = []
        for life in run.of_peer[peer]:
            bars += _states(life, times)
            marks += _happened(life, times)
        rows.append(Lane(peer, bars, marks))
    return rows


def _states(life: Life, times: Times) -> Iterator[Bar]:
    began, state = times.of(life.events[0]), "joining"
    for event in [*life.of(Event.STATE), life.events[-1]]:
        now = times.of(event)
        if state in _BARS:
            yield Bar(began, now, _BARS[state], f"{life.peer}: {state} from {began:.1f} s to {now:.1f} s")
        if event["event"] == Event.STATE:
            began, state = now, str(event["new"])


def _happened(life: Life, times: Times) -> Iterator[Mark]:
    for event in life.events:
        if event["event"] in {Event.JOINED, Event.FOUNDED}:
            yield Mark(times.of(event), "joined", f"{life.peer} {event['event']} at {times.of(event):.1f} s")
        elif event["event"] in _MARKS:
            kind = _MARKS[Event(event["event"])]
            why = event.get("cause") or event.get("reason") or ""
            yield Mark(times.of(event), kind, f"{life.peer}: {kind} at {times.of(event):.1f} s: {why}")
    ended = times.of(life.events[-1])
    if life.left is None:
        yield Mark(ended, "killed", f"{life.peer} was killed at {ended:.1f} s")
    else:
        yield Mark(ended, "left", f"{life.peer} left at {ended:.1f} s: {life.left.get('reason', '')}")


def ownership(run: Run, times: Times) -> list[Lane]:
    """A lane for each peer: the number of chunks that it owned over time.

    Chunks of a killed peer have another colour.
    """
    rows = []
    for peer in ordered(run.of_peer):
        bars: list[Bar] = []
        for life in run.of_peer[peer]:
            bars += _owned(life, times)
        rows.append(Lane(peer, bars))
    return rows


def _owned(life: Life, times: Times) -> Iterator[Bar]:
    owned: set[tuple[int, int]] = set()
    since = 0.0
    for event in life.of(Event.CLAIMED, Event.BORROWED, Event.DONE, Event.RELEASED, Event.LEASE_LOST):
        now = times.of(event)
        before = len(owned)
        if event["event"] == Event.LEASE_LOST:
            owned.clear()
        else:
            chunks = {(int(event["epoch"]), int(chunk)) for chunk in event["chunks"]}
            owned = owned | chunks if event["event"] in {Event.CLAIMED, Event.BORROWED} else owned - chunks
        if bool(owned) != bool(before):
            if before:
                yield Bar(since, now, OWNED, f"{life.peer} owned chunks until {now:.1f} s")
            since = now
    if owned:
        kind = OF_THE_KILLED if life.left is None else OWNED
        told = f"{life.peer} owned {len(owned)} chunks at its end"
        yield Bar(since, times.of(life.events[-1]), kind, told)


# ── lines ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def progress(run: Run, times: Times, field: str, scale: float = 1.0) -> list[Series]:
    """One figure of the ``progress`` events of each peer, over time."""
    return [
        Series(peer, points)
        for peer in ordered(run.of_peer)
        if (
            points := [
                (times.of(event), scale * float(event[field]))
                for life in run.of_peer[peer]
                for event in life.of(Event.PROGRESS)
                if event.get(field) is not None
            ]
        )
    ]


def consensus_seen(run: Run, times: Times) -> list[Series]:
    """The consensus distance of all training peers over time, if an observer measured it."""
    points = [(times.of(line), float(line["distance"])) for line in run.seen if line["event"] == "consensus"]
    return [Series("measured over all peers", points)] if points else []


def shares(run: Run, times: Times) -> list[Series]:
    """The number of chunks that each peer had settled, over time."""
    found = []
    for peer in ordered(run.of_peer):
        points, settled = [], 0
        for life in run.of_peer[peer]:
            for event in life.of(Event.DONE):
                settled += len(event["chunks"])
                points.append((times.of(event), float(settled)))
        if points:
            found.append(Series(peer, points))
    return found


def consensus_tests(run: Run) -> list[Series]:
    """Each test output with one value that is no loss, over the samples that the whole job had trained."""
    found: dict[str, list[tuple[float, float]]] = {}
    for life in run.lives:
        for event in life.of(Event.TESTED):
            for output in _outputs(event):
                found.setdefault(output[0], []).append((float(event["progress_samples"]), output[1]))
    return [Series(name, sorted(points)) for name, points in sorted(found.items())]


def _outputs(event: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    known = {key: event[key] for key in ("progress_samples", "iteration", "outputs")}
    for output in ConsensusTest.from_record(known).outputs:
        if output.scalar is not None and not output.loss_weight:
            yield (f"net #{output.net} {output.name}" if output.net else output.name), output.scalar


def outcomes(run: Run) -> Sequence[tuple[str, Counter[str]]]:
    """For each peer the outcomes of the exchanges that it offered, and the reasons of those that it refused."""
    return [(peer, _outcomes(lives)) for peer, lives in sorted(run.of_peer.items(), key=_by_name)]


def _by_name(entry: tuple[str, object]) -> tuple[int, str]:
    return len(entry[0]), entry[0]


def _outcomes(lives: Sequence[Life]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for event in (event for life in lives for event in life.of(Event.EXCHANGED)):
        offered = event.get("side") != "answered"
        if offered or event["outcome"] == "applied":
            counted[f"{'offered' if offered else 'answered'}, {event['outcome']}"] += 1
        else:
            counted[f"refused as {event.get('refusal', '?')}"] += 1
    return counted
