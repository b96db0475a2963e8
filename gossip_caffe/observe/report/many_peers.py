"""The reduction of a report for a run with too many peers for a line each. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from gossip_caffe.observe.report.chart import Lane, Series
from gossip_caffe.observe.report.gathered import Gathered, ordered

MOST_LINES = 64
"""With more peers than this, their lines are replaced by three: the lowest, the median and the highest."""
MOST_LANES = 128
"""The number of peers that have a lane and a row of their own."""
_MOMENTS = 120
_LATE_SHARE = 0.05
"""A peer that came after this share of the run has joined it; earlier ones were there at the start."""


def summed(series: Sequence[Series]) -> Sequence[Series]:
    """The lines as they are; of many lines the lowest, the median and the highest over time."""
    if len(series) <= MOST_LINES:
        return series
    points = [point for one in series for point in one.points]
    first, last = min(point[0] for point in points), max(point[0] for point in points)
    wide = (last - first) / _MOMENTS or 1.0
    moments: dict[int, list[float]] = {}
    for x, y in points:
        moments.setdefault(min(_MOMENTS - 1, int((x - first) / wide)), []).append(y)
    drawn = {f"lowest of {len(series):,} peers": 0.0, "median": 0.5, "highest": 1.0}
    ranked = [(first + (moment + 0.5) * wide, sorted(moments[moment])) for moment in sorted(moments)]
    return [
        Series(name, [(x, values[round(share * (len(values) - 1))]) for x, values in ranked])
        for name, share in drawn.items()
    ]


def chosen(gathered: Gathered) -> frozenset[str]:
    """All peers; of many peers those that were killed or joined, and the first of the others."""
    late = gathered.began_at + _LATE_SHARE * gathered.length_s

    def quiet(peer: str) -> bool:
        lives = gathered.peers[peer]
        ended_well = lives[-1].left is not None or gathered.runs(lives[-1])
        return len(lives) == 1 and ended_well and lives[0].began_at < late

    return frozenset(sorted(ordered(gathered.peers), key=quiet)[:MOST_LANES])


def of(peers: frozenset[str], rows: Sequence[Lane]) -> list[Lane]:
    """The lanes of the given peers."""
    return [row for row in rows if row.name in peers]
