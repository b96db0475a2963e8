"""Charts as SVG text: axes, lines and lanes, in the colours of the page. Pure; the SVG loads and runs nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LEFT, RIGHT = 960, 70, 14
"""The width of every chart and of its margins, in pixels."""
LANE = 16
_INNER = WIDTH - LEFT - RIGHT
_MOST_POINTS = 600
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#c1121f", "#7b4fa3", "#56b4e9", "#8c564b", "#555555")


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart: points (x, y) in order of x."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Bar:
    """An interval of a lane, from ``start`` to ``stop`` on the x axis. ``told`` is shown as a tooltip."""

    start: float
    stop: float
    kind: str
    told: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of a lane. ``told`` is shown as a tooltip."""

    at: float
    kind: str
    told: str = ""


@dataclass(frozen=True, slots=True)
class Lane:
    """One row: its name, its bars and its marks."""

    name: str
    bars: Sequence[Bar]
    marks: Sequence[Mark] = ()


def thinned(points: Sequence[tuple[float, float]], most: int = _MOST_POINTS) -> list[tuple[float, float]]:
    """About ``most`` of the points at most, evenly chosen, with the last one.

    Points that are not finite are left out.
    """
    finite = [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]
    step = max(1, math.ceil(len(finite) / most))
    kept = finite[::step]
    return kept if not finite or kept[-1] == finite[-1] else [*kept, finite[-1]]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """About ``about`` round numbers from ``low`` to ``high``."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def lines(
    name: str, series: Sequence[Series], x_unit: str, *, logarithmic: bool = False, height: int = 220
) -> str:
    """A chart of lines over a common x axis, as SVG; "" when there is nothing to draw."""
    drawn = [Series(one.name, thinned(one.points)) for one in series]
    if logarithmic:
        drawn = [Series(one.name, [(x, math.log10(y)) for x, y in one.points if y > 0]) for one in drawn]
    drawn = [one for one in drawn if one.points]
    if not drawn:
        return ""
    xs, ys = ([point[axis] for one in drawn for point in one.points] for axis in (0, 1))
    x_low, x_high, y_low, y_high = min(xs), max(xs), min(ys), max(ys)
    if y_high - y_low < 1e-12:
        y_low, y_high = y_low - 0.5, y_high + 0.5
    bottom = height - 26

    def across(x: float) -> float:
        return LEFT + _INNER * (x - x_low) / ((x_high - x_low) or 1.0)

    def down(y: float) -> float:
        return bottom - (bottom - 10) * (y - y_low) / (y_high - y_low)

    parts = []
    for y in ticks(y_low, y_high):
        label = f"1e{y:g}" if logarithmic else f"{y:g}"
        parts.append(_rule(LEFT, down(y), WIDTH - RIGHT, down(y)))
        parts.append(_text(LEFT - 6, down(y) + 4, label, "end"))
    parts += _x_axis(x_low, x_high, bottom, x_unit)
    for one, colour in zip(drawn, _colours(len(drawn)), strict=True):
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in one.points)
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.4" points="{path}">'
            f"<title>{escape(one.name)}</title></polyline>"
        )
        if len(one.points) == 1:
            x, y = one.points[0]
            parts.append(f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="3" fill="{colour}"/>')
    return _svg(name, height, parts) + legend(
        zip((one.name for one in drawn), _colours(len(drawn)), strict=True)
    )


def lanes(name: str, rows: Sequence[Lane], x_high: float, colours: dict[str, str], x_unit: str = "s") -> str:
    """A chart of lanes from 0 to ``x_high``, as SVG; "" without rows. ``colours``: kind of bar or mark → colour."""
    if not rows:
        return ""
    height = LANE * len(rows) + 34
    bottom = LANE * len(rows) + 6

    def across(x: float) -> float:
        return LEFT + _INNER * min(max(x, 0.0), x_high) / (x_high or 1.0)

    parts = _x_axis(0.0, x_high, bottom, x_unit)
    for place, row in enumerate(rows):
        top = 4 + LANE * place
        parts.append(_text(LEFT - 6, top + 11, row.name, "end"))
        for bar in row.bars:
            width = max(0.6, across(bar.stop) - across(bar.start))
            parts.append(
                f'<rect x="{across(bar.start):.1f}" y="{top + 2}" width="{width:.1f}" height="{LANE - 5}" '
                f'fill="{colours[bar.kind]}" class="{escape(bar.kind)}"><title>{escape(bar.told)}</title></rect>'
            )
        for mark in row.marks:
            parts.append(
                f'<circle cx="{across(mark.at):.1f}" cy="{top + LANE / 2 - 0.5}" r="3.4" '
                f'fill="{colours[mark.kind]}" class="{escape(mark.kind)}"><title>{escape(mark.told)}</title></circle>'
            )
    shown = {bar.kind for row in rows for bar in row.bars} | {mark.kind for row in rows for mark in row.marks}
    return _svg(name, height, parts) + legend(
        (kind, colour) for kind, colour in colours.items() if kind in shown
    )


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """The meaning of the colours, as HTML."""
    shown = "".join(
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in entries
    )
    return f'<p class="legend">{shown}</p>'


def _colours(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]


def _svg(name: str, height: float, parts: Iterable[str]) -> str:
    return (
        f'<svg role="img" aria-label="{escape(name)}" viewBox="0 0 {WIDTH} {height:g}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _x_axis(low: float, high: float, bottom: float, unit: str) -> list[str]:
    parts = [f'<line class="axis" x1="{LEFT}" y1="{bottom}" x2="{WIDTH - RIGHT}" y2="{bottom}"/>']
    for x in ticks(low, high, 8):
        across = LEFT + _INNER * (x - low) / ((high - low) or 1.0)
        parts.append(_text(across, bottom + 15, f"{x:,.10g}", "middle"))
    return [*parts, _text(WIDTH - RIGHT, bottom + 26, unit, "end")]


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="rule" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
