"""The head of the page: how the run stands, in a few figures and a few lines of news. Pure."""

from __future__ import annotations

from collections import Counter
from statistics import median

from gossip_caffe.observe.dashboard.cards import state_of
from gossip_caffe.observe.report.chart import power, shown
from gossip_caffe.observe.report.gathered import Gathered
from gossip_caffe.observe.report.history import happened
from gossip_caffe.observe.report.style import css_class

NEWS_LINES = 9
WELL, APART = 1e-3, 1e-2
"""The consensus distance below which all is well, and above which peers learn apart (docs/internals/protocol.md)."""
LIVE, FINISHED, ENDED = "live", "finished", "ended"


def parts_of(gathered: Gathered, samples_per_s: float | None) -> dict[str, str]:
    """The HTML of each part of the head, by name. ``samples_per_s``: the speed of now, None if it is not known."""
    return {
        "status": _status(gathered),
        "progress": _progress(gathered, samples_per_s),
        "tiles": "".join(_tile(*tile) for tile in _tiles(gathered, samples_per_s)),
        "news": _news(gathered),
    }


def standing(gathered: Gathered) -> str:
    """Whether the run is live, has ended with its job finished, or has ended before."""
    if gathered.is_live:
        return LIVE
    return FINISHED if gathered.finished else ENDED


def _status(gathered: Gathered) -> str:
    kind = standing(gathered)
    told = {
        LIVE: "",
        FINISHED: "the run has ended, and its job is finished",
        ENDED: "the run has ended, and its job is not finished",
    }[kind]
    return f'<span class="pill {kind}">{kind}</span><span class="told">{told}</span>'


def share_done(gathered: Gathered) -> float:
    """The share of the job's budget that is trained, 0 to 1; 0 where the budget is not known."""
    if not gathered.budget_samples:
        return 0.0
    return min(1.0, gathered.progress_samples / gathered.budget_samples)


def _progress(gathered: Gathered, samples_per_s: float | None) -> str:
    share, lasts = share_done(gathered), gathered.is_live
    told = f"{100 * share:.0f}% of {gathered.budget_samples:,} samples in {duration(gathered.length_s)}"
    left = gathered.budget_samples - gathered.progress_samples
    if lasts and samples_per_s and left > 0:
        told += f", about {duration(left / samples_per_s)} left"
    return f'<progress max="1000" value="{1000 * share:.0f}">{100 * share:.0f}%</progress><p>{told}</p>'


def _tiles(gathered: Gathered, samples_per_s: float | None) -> list[tuple[str, str, str]]:
    """The tiles: name, figure, and a line below it."""
    newest = [lives[-1] for lives in gathered.peers.values()]
    states = Counter(state_of(gathered, life) for life in newest)
    gone = ", ".join(f"{states[kind]:,} {kind}" for kind in ("killed", "left") if states[kind])
    coming = sum(number for state, number in states.items() if state not in {"training", "killed", "left"})
    below = ", ".join(filter(None, (f"{coming:,} not training" if coming else "", gone))) or "none is gone"
    speed = samples_per_s
    whose = "of all peers, now"
    if not gathered.is_live and gathered.length_s > 0:
        speed, whose = gathered.progress_samples / gathered.length_s, "of all peers, on average"
    return [
        ("Peers training", f"{states['training']:,}", below),
        ("Samples a second", "–" if speed is None else f"{speed:,.0f}", whose),
        ("Loss", *_median(gathered, "loss")),
        ("Test", *_test(gathered)),
        ("Distance", *_distance(gathered)),
        ("Exchanges", *_exchanges(gathered)),
    ]


def _newest_of(gathered: Gathered, figure: str) -> list[float]:
    """The newest value of each peer that runs; of all peers when none does."""
    newest = [lives[-1] for lives in gathered.peers.values()]
    lives = [life for life in newest if gathered.runs(life)] or newest
    return [points[-1][1] for life in lives if (points := life.figures[figure].points())]


def _median(gathered: Gathered, figure: str) -> tuple[str, str]:
    values = _newest_of(gathered, figure)
    if not values:
        return "–", "no report yet"
    return f"{median(values):.4g}", f"median of {len(values):,} peers" if len(values) > 1 else "of one peer"


def _test(gathered: Gathered) -> tuple[str, str]:
    if not gathered.tests:
        return "–", "no test of the consensus yet"
    name, points = next(iter(gathered.tests.items()))
    at = max(points)
    return f"{points[at]:.4g}", f"{name} at {at:,.0f} samples"


def _distance(gathered: Gathered) -> tuple[str, str]:
    values = _newest_of(gathered, "distance")
    if not values:
        return "–", "no exchange yet"
    now = median(values)
    told = "the peers are close" if now < WELL else "the peers learn apart" if now > APART else "fairly close"
    return power(now), told


def _exchanges(gathered: Gathered) -> tuple[str, str]:
    counted = sum((life.outcomes for life in gathered.lives()), Counter[str]())
    offered = sum(number for outcome, number in counted.items() if outcome.startswith("offered"))
    if not offered:
        return "0", "none offered yet"
    return f"{offered:,}", f"{100 * counted['offered, applied'] / offered:.0f}% applied by both sides"


def _news(gathered: Gathered) -> str:
    marks = [mark for life in gathered.lives() for mark in happened(life, gathered)]
    newest = sorted(marks, key=lambda mark: mark.at, reverse=True)[:NEWS_LINES]
    lines = "".join(
        f'<li><i class="{css_class(mark.kind)}"></i><span>{shown(mark.told)}</span></li>' for mark in newest
    )
    return f"<ol>{lines}</ol>" if lines else '<p class="empty">nothing yet</p>'


def _tile(name: str, figure: str, below: str) -> str:
    return f"<div><dt>{shown(name)}</dt><dd>{shown(figure)}</dd><dd>{shown(below)}</dd></div>"


def duration(seconds: float) -> str:
    """A length of time for people: 42 s, 3 min 20 s, 2 h 5 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"
