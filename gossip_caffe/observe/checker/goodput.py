"""The goodput of a run: the new samples that it trained, over those that its living peers could have trained.

A peer could train at its own pace, the samples a second of its iterations, from its start to its end, or to the moment
when the job had nothing left to train. No pause is excused: what a peer did instead of iterations is a loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from gossip_caffe.observe.history.run import Life, Run
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
    trained = [(life, _trained(life)) for life in run.lives]
    over_t = max((batches.last_t for _, batches in trained), default=0.0)
    lives = [_lived(life, batches, _end_t(run, life), over_t) for life, batches in trained]
    return shares(lives, twice=run.account.records_twice)


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


@dataclass(slots=True)
class _Trained:
    """The batches of a life. ``pace_s``: as in ``Lived``, by the newest report."""

    samples: int = 0
    first_samples: int = 0
    first_t: float = 0.0
    last_t: float = 0.0
    pace_s: float | None = None


def _trained(life: Life) -> _Trained:
    """The batches of a life, taken in one by one: a long log has millions."""
    told = next((event for event in reversed(list(life.of(Event.PROGRESS))) if event.get("stepping_s")), None)
    found, until_told = _Trained(), 0
    for batch in one_by_one(life.of(Event.TRAINED)):
        samples = sum(int(stop) - int(start) for _, start, stop in batch["parts"])
        if not found.first_t:
            found.first_t, found.first_samples = float(batch["t"]), samples
        found.last_t = float(batch["t"])
        found.samples += samples
        if told is not None and batch["t"] <= told["t"]:
            until_told += samples
    if told is not None and until_told:
        found.pace_s = float(told["stepping_s"]) / until_told
    return found


def _end_t(run: Run, life: Life) -> float:
    """The wall second at which a life ended."""
    return life.ended_at if life.left is not None else max(life.ended_at, run.killed_t(life))


def _lived(life: Life, trained: _Trained, end_t: float, over_t: float) -> Lived:
    began_t = float(life.events[0]["t"])
    lived_s = max(0.0, min(end_t, over_t) - began_t)
    if not trained.samples:
        return Lived(lived_s, lived_s, 0.0, 0, trained.pace_s)
    first_s = trained.first_t - began_t - (trained.pace_s or 0.0) * trained.first_samples
    starting_s = min(lived_s, max(0.0, first_s))
    stalled_s = sum(_stalls_s(life, trained.first_t, over_t))
    return Lived(lived_s, starting_s, min(lived_s - starting_s, stalled_s), trained.samples, trained.pace_s)


def _stalls_s(life: Life, since_t: float, until_t: float) -> Iterator[float]:
    """The seconds for which the solver waited for batches between two reports, from its first batch on."""
    before_t = since_t
    for event in life.of(Event.PROGRESS):
        at_t = float(event["t"])
        if since_t < at_t <= until_t:
            yield float(event["stalled_share"]) * (at_t - before_t)
            before_t = at_t
