"""What a report draws of a run of so many peers that nobody could read a line for each. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from gossip_caffe.observe.checker.run import Run
from gossip_caffe.observe.report_chart import Lane, Series
from gossip_caffe.observe.report_history import Times, ordered

MOST_LINES = 64
"""With more peers than this their lines become three: the lowest, the median and the highest of them."""
MOST_LANES = 128
"""So many peers have a lane and a row of their own."""
_MOMENTS = 120
_LATE_SHARE = 0.05
"""Who came after this share of the run has joined it; the others were there as it began."""


def summed(series: Sequence[Series]) -> Sequence[Series]:
    """The lines as they are; of many: the lowest, the median and the highest of all at so many moments."""
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


def chosen(run: Run, times: Times) -> frozenset[str]:
    """All peers; of many: those that were killed or came later, and the first of the others."""
    late = times.begin + _LATE_SHARE * times.length

    def quiet(peer: str) -> bool:
        lives = run.of_peer[peer]
        return len(lives) == 1 and lives[0].left is not None and float(lives[0].events[0]["t"]) < late

    return frozenset(sorted(ordered(run.of_peer), key=quiet)[:MOST_LANES])


def of(peers: frozenset[str], rows: Sequence[Lane]) -> list[Lane]:
    """The lanes of these peers."""
    return [row for row in rows if row.name in peers]
