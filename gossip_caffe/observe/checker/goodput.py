"""The goodput of a run: the new samples that it trained, over those that its living peers could have trained.

A peer could train at its own pace, the samples a second of its iterations, from its start to its end, or to the moment
when the job had nothing left to train. No pause is excused: what a peer did instead of iterations is a loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from gossip_caffe.observe.history.run import Life, Line, Run
from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.runs import one_by_one


@dataclass(frozen=True, slots=True)
class Goodput:
    """Shares of the samples that the living peers could have trained. They add up to 1.

    ``share``: the goodput, new samples. ``twice``: samples that were trained again. ``starting``: the time from the
    start of a process to its first batch. ``stalled``: waits for batches. ``rest``: everything else, such as waits for
    rounds, solvers that died, snapshots, and cores that other programs used.
    """

    share: float
    twice: float
    starting: float
    stalled: float
    rest: float


@dataclass(frozen=True, slots=True)
class Lived:
    """The time of one life in seconds, and its samples. ``pace_s``: seconds for a sample; None: it told none."""

    lived_s: float
    starting_s: float
    stalled_s: float
    samples: int
    pace_s: float | None


def goodput(run: Run) -> Goodput | None:
    """The goodput of a run; None where its records or the pace of all its peers are not known."""
    if run.account is None:
        return None
    trained = [(life, list(one_by_one(life.of(Event.TRAINED)))) for life in run.lives]
    over_t = max((batches[-1]["t"] for _, batches in trained if batches), default=0.0)
    kills = [(float(line["t"]), line.get("peer")) for line in run.faults("kill")]
    return shares(
        [_lived(life, batches, over_t, _end_t(life, kills)) for life, batches in trained],
        twice=run.account.records_twice,
    )


def shares(lives: Sequence[Lived], *, twice: int) -> Goodput | None:
    """The goodput of lives of which ``twice`` samples were trained again; None where no life has a pace.

    A life without a pace, such as one that ended before its first batch, is given the median of the others.
    """
    paces = [life.pace_s for life in lives if life.pace_s]
    if not paces:
        return None
    usual_s = median(paces)
    could = starting = stalled = 0.0
    for life in lives:
        pace_s = life.pace_s or usual_s
        could += life.lived_s / pace_s
        starting += life.starting_s / pace_s
        stalled += life.stalled_s / pace_s
    if could <= 0:
        return None
    new = sum(life.samples for life in lives) - twice
    rest = could - new - twice - starting - stalled
    return Goodput(*(samples / could for samples in (new, twice, starting, stalled, rest)))


def _end_t(life: Life, kills: Sequence[tuple[float, object]]) -> float:
    """The wall second at which a life ended: that of its kill, where an observer wrote one down, or its last line."""
    if life.left is not None:
        return life.ended_at
    after = [t for t, peer in kills if peer == life.peer and t >= life.ended_at]
    return min(after, default=life.ended_at)


def _lived(life: Life, batches: Sequence[Line], over_t: float, end_t: float) -> Lived:
    began_t = float(life.events[0]["t"])
    lived_s = max(0.0, min(end_t, over_t) - began_t)
    samples = sum(_records(batch) for batch in batches)
    pace_s = _pace_s(life, batches)
    if not batches:
        return Lived(lived_s, lived_s, 0.0, 0, pace_s)
    first_s = batches[0]["t"] - began_t - (pace_s or 0.0) * _records(batches[0])
    starting_s = min(lived_s, max(0.0, first_s))
    stalled_s = sum(_stalls_s(life, float(batches[0]["t"]), over_t))
    return Lived(lived_s, starting_s, min(lived_s - starting_s, stalled_s), samples, pace_s)


def _records(batch: Line) -> int:
    return sum(int(stop) - int(start) for _, start, stop in batch["parts"])


def _pace_s(life: Life, batches: Sequence[Line]) -> float | None:
    """The seconds that a sample takes in iterations, by the newest report; None where no report tells it."""
    told = [event for event in life.of(Event.PROGRESS) if event.get("stepping_s")]
    if not told:
        return None
    last = told[-1]
    samples = sum(_records(batch) for batch in batches if batch["t"] <= last["t"])
    return float(last["stepping_s"]) / samples if samples else None


def _stalls_s(life: Life, since_t: float, until_t: float) -> Iterator[float]:
    """The seconds for which the solver waited for batches between two reports, from its first batch on."""
    before_t = since_t
    for event in life.of(Event.PROGRESS):
        at_t = float(event["t"])
        if since_t < at_t <= until_t:
            yield float(event["stalled_share"]) * (at_t - before_t)
            before_t = at_t
