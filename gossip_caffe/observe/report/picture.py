"""The picture of a run: the accuracy of the consensus beside a single solver's, and the lives of the peers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from gossip_caffe.errors import NotInstalled
from gossip_caffe.observe.log.events import Event

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CONSENSUS = "#0072b2"
_SINGLE = "#e69f00"
_LIFE = "#7fb2d6"
_LATE = "#009e73"
_KILLED = "#c1121f"
_QUIET = "#555555"


class LifeEnd(StrEnum):
    """The end of a peer's life, according to its events."""

    FINISHED = "finished"
    LEFT = "left"
    KILLED = "killed"
    """The log has neither ``finished`` nor ``left``: the peer was killed."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy (0 to 1) over trained samples, in ascending order of the samples."""

    name: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Lifeline:
    """One peer over time, in seconds since the first event of the run.

    ``training_s``: the time at which it began to train; None: it never did. ``exchanges_s``: the times of the
    exchanges that it started and that both sides applied.
    """

    peer: str
    started_s: float
    training_s: float | None
    ended_s: float
    end: LifeEnd
    exchanges_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class RunPicture:
    """The data of the picture. ``joined``: the peers that came after the start of the run."""

    title: str
    curves: tuple[Curve, ...]
    lifelines: tuple[Lifeline, ...]
    joined: frozenset[str] = frozenset()


def lifelines_of(events: Mapping[str, Iterable[Mapping[str, object]]]) -> tuple[Lifeline, ...]:
    """The lifelines of each peer's events (docs/internals/events.md), in the order of the peers' names.

    Peers without an event are left out. Raises KeyError for an event without a wall time ``t``.
    """
    histories = {peer: list(lines) for peer, lines in events.items()}
    origin = min((_wall(lines[0]) for lines in histories.values() if lines), default=0.0)
    return tuple(_lifeline(peer, histories[peer], origin) for peer in sorted(histories) if histories[peer])


def _lifeline(peer: str, lines: Sequence[Mapping[str, object]], origin: float) -> Lifeline:
    kinds = {str(line["event"]) for line in lines}
    end = (
        LifeEnd.FINISHED
        if Event.FINISHED in kinds
        else LifeEnd.LEFT
        if Event.LEFT in kinds
        else LifeEnd.KILLED
    )
    began = {Event.FOUNDED.value, Event.JOINED.value}
    training = next((_wall(line) - origin for line in lines if line["event"] in began), None)
    exchanges = tuple(
        _wall(line) - origin
        for line in lines
        if line["event"] == Event.EXCHANGED
        and line.get("side") == "offered"
        and line.get("outcome") == "applied"
    )
    return Lifeline(peer, _wall(lines[0]) - origin, training, _wall(lines[-1]) - origin, end, exchanges)


def _wall(line: Mapping[str, object]) -> float:
    return float(str(line["t"]))


def draw(picture: RunPicture, path: Path) -> None:
    """Write the picture as a PNG of about 1,500 × 1,080 pixels.

    Raises EnvironmentProblem when matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an extra, and slow to load
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise NotInstalled(
            "pictures are drawn with matplotlib, which is not installed",
            name="matplotlib",
            remedy="run: pip install 'gossip-caffe[demo]'",
        ) from None
    figure = Figure(figsize=(10, 7.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    lanes = max(3, len(picture.lifelines))
    top, bottom = figure.subplots(2, 1, height_ratios=[3.2, 0.34 * lanes + 0.3])
    figure.suptitle(picture.title, fontsize=13, fontweight="bold", x=0.015, ha="left")
    _draw_curves(top, picture.curves)
    _draw_lives(bottom, picture.lifelines, picture.joined)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=_QUIET)
    axes.xaxis.label.set(size=10, color=_QUIET)
    axes.yaxis.label.set(size=10, color=_QUIET)


def accuracy_floor(curves: Sequence[Curve]) -> float:
    """The lower end of the accuracy axis: below the lowest point after the first rise, at most 0.95."""
    settled = [accuracy for curve in curves for _, accuracy in curve.points[len(curve.points) // 8 :]]
    lowest = min(settled, default=0.0)
    return max(0.0, min(0.95, lowest - 0.01))


def _draw_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    colours = [_CONSENSUS, _SINGLE, _LATE, _KILLED]
    for order, (curve, colour) in enumerate(zip(curves, colours, strict=False)):
        samples = [point[0] / 1000 for point in curve.points]
        accuracy = [100 * point[1] for point in curve.points]
        first = order == 0
        axes.plot(
            samples,
            accuracy,
            color=colour,
            label=f"{curve.name}: {accuracy[-1]:.1f}%" if accuracy else curve.name,
            linewidth=2.2 if first else 1.8,
            marker="o" if first else "s",
            markersize=5 if first else 4,
            linestyle="-" if first else "--",
            zorder=3 if first else 2,
        )
    axes.set_ylim(100 * accuracy_floor(curves), 100.15)
    axes.set_xlim(left=0)
    axes.set_xlabel("samples trained, thousands (all peers together)")
    axes.set_ylabel("test accuracy, %")
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    if curves:
        axes.legend(loc="lower right", frameon=False, fontsize=10)
    _plain(axes)


def _draw_lives(axes: Axes, lives: Sequence[Lifeline], joined: frozenset[str]) -> None:
    last = max((life.ended_s for life in lives), default=1.0)
    for lane, life in enumerate(lives):
        begin = life.ended_s if life.training_s is None else life.training_s
        colour = _LATE if life.peer in joined else _LIFE
        axes.plot([life.started_s, begin], [lane, lane], color="#c9c9c9", linewidth=2, solid_capstyle="butt")
        axes.plot([begin, life.ended_s], [lane, lane], color=colour, linewidth=11, solid_capstyle="butt")
        axes.vlines(life.exchanges_s, lane - 0.17, lane + 0.17, color="white", linewidth=0.5, alpha=0.7)
        if life.peer in joined:
            axes.annotate(
                "joins", (life.started_s, lane), xytext=(-6, 0), textcoords="offset points",
                ha="right", va="center", fontsize=9, color=_LATE, fontweight="bold",
            )  # fmt: skip
        if life.end is LifeEnd.LEFT and life.ended_s < last:
            axes.annotate(
                "leaves", (life.ended_s, lane), xytext=(6, 0), textcoords="offset points",
                ha="left", va="center", fontsize=9, color=_QUIET, fontweight="bold",
            )  # fmt: skip
        if life.end is LifeEnd.KILLED:
            axes.plot(
                life.ended_s,
                lane,
                marker="X",
                markersize=11,
                color=_KILLED,
                markeredgecolor="white",
                zorder=4,
            )
            axes.annotate(
                "kill -9", (life.ended_s, lane), xytext=(11, 0), textcoords="offset points",
                ha="left", va="center", fontsize=9, color=_KILLED, fontweight="bold",
            )  # fmt: skip
    axes.set_yticks(range(len(lives)), [life.peer for life in lives])
    axes.set_ylim(max(len(lives), 1) - 0.4, -0.6)
    axes.set_xlim(0, last * 1.01 or 1.0)
    axes.set_xlabel("seconds  (grey: starting; white ticks: exchanges that the peer started)")
    _plain(axes)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=10)
