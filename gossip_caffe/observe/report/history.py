"""The lanes and lines of the charts, computed from what is gathered of a run. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from gossip_caffe.observe.report.chart import Bar, Lane, Mark, Series
from gossip_caffe.observe.report.gathered import Gathered, GatheredLife, ordered

LIFE_KINDS = (
    "joining", "training", "draining", "joined", "killed", "left", "solver died", "loader died", "lease lost",
)  # fmt: skip
"""The kinds of a lifeline's bars and marks, in the order of the legend."""
OWNED, OF_THE_KILLED = "owned", "killed with chunks"
OWNER_KINDS = (OWNED, OF_THE_KILLED)
EXCHANGE_KINDS = ("offered, applied", "answered, applied", "withdrawn", "refused", "failed")
_BARS = {"joining": "joining", "syncing": "joining", "training": "training", "draining": "draining"}
_ENDS = {"offered, refused": "refused", "offered, withdrawn": "withdrawn"}
_COUNTED = frozenset({"offered, applied", "answered, applied"})


# ── lanes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def lifelines(gathered: Gathered) -> list[Lane]:
    """A lane for each peer: its states and its events."""
    rows = []
    for peer in ordered(gathered.peers):
        lives = gathered.peers[peer]
        bars = [bar for life in lives for bar in _states(life, gathered)]
        rows.append(Lane(peer, bars, [mark for life in lives for mark in happened(life, gathered)]))
    return rows


def _states(life: GatheredLife, gathered: Gathered) -> Iterator[Bar]:
    end = gathered.until if gathered.runs(life) else life.seen_at
    for start, stop, state in [*life.states, (life.state_since, end, life.state)]:
        if state in _BARS:
            began, now = start - gathered.began_at, stop - gathered.began_at
            yield Bar(began, now, _BARS[state], f"{life.peer}: {state} from {began:.1f} s to {now:.1f} s")


def happened(life: GatheredLife, gathered: Gathered) -> Iterator[Mark]:
    """The events of one life, with its end if it has ended."""
    for at, kind, why in life.marks:
        now = at - gathered.began_at
        told = f"{why} at {now:.1f} s" if kind == "joined" else f"{kind} at {now:.1f} s: {why}"
        yield Mark(now, kind, f"{life.peer} {told}")
    ended = life.seen_at - gathered.began_at
    if life.left is not None:
        yield Mark(ended, "left", f"{life.peer} left at {ended:.1f} s: {life.left}")
    elif not gathered.runs(life):
        yield Mark(ended, "killed", f"{life.peer} was killed at {ended:.1f} s")


def ownership(gathered: Gathered) -> list[Lane]:
    """A lane for each peer: the times in which it owned chunks, and a mark where it was killed with some of them."""
    rows = []
    for peer in ordered(gathered.peers):
        lives = gathered.peers[peer]
        bars = [bar for life in lives for bar in _owned(life, gathered)]
        rows.append(Lane(peer, bars, [mark for life in lives for mark in _orphaned(life, gathered)]))
    return rows


def _owned(life: GatheredLife, gathered: Gathered) -> Iterator[Bar]:
    for start, stop in life.owned:
        now = stop - gathered.began_at
        yield Bar(start - gathered.began_at, now, OWNED, f"{life.peer} owned chunks until {now:.1f} s")
    if life.chunks:
        runs = gathered.runs(life)
        stop = (gathered.until if runs else life.seen_at) - gathered.began_at
        told = f"owns {len(life.chunks)} chunks" if runs else f"owned {len(life.chunks)} chunks at its end"
        yield Bar(life.owns_since - gathered.began_at, stop, OWNED, f"{life.peer} {told}")


def _orphaned(life: GatheredLife, gathered: Gathered) -> Iterator[Mark]:
    if life.chunks and life.left is None and not gathered.runs(life):
        ended = life.seen_at - gathered.began_at
        told = f"{life.peer} was killed at {ended:.1f} s with {len(life.chunks)} chunks, which others train"
        yield Mark(ended, OF_THE_KILLED, told)


def exchange_bars(gathered: Gathered) -> list[Lane]:
    """A lane for each peer: the number of its exchanges, one bar for each way in which they ended."""
    rows = []
    for peer, counted in outcomes(gathered):
        by_kind: Counter[str] = Counter()
        for outcome, number in counted.items():
            kind = outcome if outcome in _COUNTED else _ENDS.get(outcome, "failed")
            if not outcome.startswith("refused as"):  # the partner counts its own offer
                by_kind[kind] += number
        bars, at = [], 0.0
        for kind in EXCHANGE_KINDS:
            if number := by_kind[kind]:
                bars.append(Bar(at, at + number, kind, f"{peer}: {number:,} {kind}"))
                at += number
        rows.append(Lane(peer, bars))
    return rows


# ── lines ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def progress(gathered: Gathered, field: str) -> list[Series]:
    """One figure of the ``progress`` events of each peer, over time."""
    begin = gathered.began_at
    found = (
        Series(
            peer,
            [
                (at - begin, value)
                for life in gathered.peers[peer]
                for at, value in life.figures[field].points()
            ],
        )
        for peer in ordered(gathered.peers)
    )
    return [one for one in found if one.points]


def consensus_seen(gathered: Gathered) -> list[Series]:
    """The consensus distance of all training peers over time, if an observer measured it."""
    points = [(at - gathered.began_at, distance) for at, distance in gathered.consensus.points()]
    return [Series("measured over all peers", points)] if points else []


def shares(gathered: Gathered) -> list[Series]:
    """The number of chunks that each peer had settled, over time."""
    found = []
    for peer in ordered(gathered.peers):
        points, before = [], 0
        for life in gathered.peers[peer]:
            points += [(at - gathered.began_at, before + count) for at, count in life.settled.points()]
            before += life.settled_chunks
        if points:
            found.append(Series(peer, points))
    return found


def consensus_tests(gathered: Gathered) -> list[Series]:
    """Each test output with one value that is no loss, over the samples that the whole job had trained."""
    return [Series(name, sorted(points.items())) for name, points in sorted(gathered.tests.items())]


def outcomes(gathered: Gathered) -> Sequence[tuple[str, Counter[str]]]:
    """For each peer the outcomes of the exchanges that it offered, and the reasons of those that it refused."""
    return [
        (peer, sum((life.outcomes for life in gathered.peers[peer]), Counter()))
        for peer in ordered(gathered.peers)
    ]
