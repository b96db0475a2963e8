"""Charts as SVG text: axes, lines and lanes. Pure; the SVG loads and runs nothing, and ``style`` gives the colours."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from gossip_caffe.observe.report.style import css_class, line_class
from gossip_caffe.printable import printable_line

WIDTH, RIGHT, TOP = 960, 14, 10
"""The usual width of a chart, and its margins on the right and above, in pixels."""
AXIS = 34
"""The height of the x axis with its numbers and its unit."""
LANE, WIDE_LANE = 16, 22
"""The height of a lane of a chart with many lanes, and of one with few."""
_MOST_POINTS = 600
_MOST_WIDE_LANES = 12
_LONGEST_NAME = 12
"""A longer name of a lane is cut: the left margin is as wide as the longest of them."""
_MOST_DOTTED, _MOST_DOTTED_LINES = 30, 3
"""A line of so few points, among so few lines, shows each of them."""
_MOST_ENDS = 8
"""Of so few lines each shows its newest point."""


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


def power(value: float) -> str:
    """A value of a logarithmic axis, in two digits: 1e-3, 3.2e-4."""
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def shown(text: str) -> str:
    """A text from a log as HTML: a control character is written out, and no character is markup."""
    return escape(printable_line(text))


def lines(
    name: str,
    series: Sequence[Series],
    x_unit: str,
    *,
    logarithmic: bool = False,
    guides: Sequence[tuple[float, str]] = (),
    width: int = WIDTH,
    height: int = 230,
) -> str:
    """A chart of lines over a common x axis, as SVG; "" when there is nothing to draw.

    ``guides``: values of y with a word each, which are shown as level lines where the chart reaches them.

    The SVG states its scale, so that a program can read values off it: ``data-x`` and ``data-y`` are the ends of the
    axes (of a logarithmic one the exponents), and ``data-plot`` the left, top, right and bottom of the plot.
    """
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
    levels = [(y, power(10**y) if logarithmic else f"{y:,.10g}") for y in ticks(y_low, y_high)]
    left, right, bottom = _left([label for _, label in levels]), width - RIGHT, height - AXIS

    def across(x: float) -> float:
        return left + (right - left) * (x - x_low) / ((x_high - x_low) or 1.0)

    def down(y: float) -> float:
        return bottom - (bottom - TOP) * (y - y_low) / (y_high - y_low)

    parts = []
    for y, label in levels:
        parts.append(_rule(left, down(y), right, down(y)))
        parts.append(_text(left - 6, down(y) + 4, label, "end"))
    parts += _x_axis(x_low, x_high, bottom, x_unit, left, right)
    for value, word in guides:
        level = math.log10(value) if logarithmic else value
        if y_low < level < y_high:
            parts.append(_rule(left, down(level), right, down(level), "guide"))
            parts.append(_text(right, down(level) - 4, word, "end"))
    for number, one in enumerate(drawn):
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in one.points)
        parts.append(
            f'<polyline class="{line_class(number)}" points="{path}"><title>{shown(one.name)}</title></polyline>'
        )
        is_dotted = len(one.points) <= _MOST_DOTTED and len(drawn) <= _MOST_DOTTED_LINES
        ends = one.points[-1:] if len(drawn) <= _MOST_ENDS else []
        parts += [
            f'<circle class="dot {line_class(number)}" cx="{across(x):.1f}" cy="{down(y):.1f}" r="2.8"/>'
            for x, y in (one.points if is_dotted else ends)
        ]
    scale = f' data-x="{x_low:.9g} {x_high:.9g}" data-y="{y_low:.9g} {y_high:.9g}"'
    scale += f' data-plot="{left} {TOP} {right} {bottom}" data-unit="{escape(x_unit)}"'
    scale += ' data-logarithmic=""' if logarithmic else ""
    said = f"{len(drawn):,} lines from {x_low:,.6g} to {x_high:,.6g} {x_unit}"
    said += f", between {_value(y_low, logarithmic)} and {_value(y_high, logarithmic)}"
    return _svg(name, said, width, height, parts, scale) + legend(
        (one.name, line_class(number)) for number, one in enumerate(drawn)
    )


def lanes(
    name: str,
    rows: Sequence[Lane],
    x_high: float,
    kinds: Sequence[str],
    x_unit: str = "seconds",
    *,
    width: int = WIDTH,
) -> str:
    """A chart of lanes from 0 to ``x_high``, as SVG; "" without rows. ``kinds``: the order of the legend."""
    if not rows:
        return ""
    tall = WIDE_LANE if len(rows) <= _MOST_WIDE_LANES else LANE
    left, right, bottom = _left([_short(row.name) for row in rows]), width - RIGHT, tall * len(rows) + 6

    def across(x: float) -> float:
        return left + (right - left) * min(max(x, 0.0), x_high) / (x_high or 1.0)

    parts = _x_axis(0.0, x_high, bottom, x_unit, left, right)
    for place, row in enumerate(rows):
        top = 4 + tall * place
        middle = top + tall / 2 - 0.5
        parts.append(_text(left - 6, middle + 4, _short(row.name), "end", row.name))
        for bar in row.bars:
            long = max(0.6, across(bar.stop) - across(bar.start))
            parts.append(
                f'<rect class="{css_class(bar.kind)}" x="{across(bar.start):.1f}" y="{top + 2}" width="{long:.1f}" '
                f'height="{tall - 5}" rx="{min(2.0, long / 2):.1f}"><title>{shown(bar.told)}</title></rect>'
            )
        parts += [_mark(mark, across(mark.at), middle) for mark in row.marks]
    there = {bar.kind for row in rows for bar in row.bars} | {mark.kind for row in rows for mark in row.marks}
    counted = Counter(mark.kind for row in rows for mark in row.marks)
    said = f"{len(rows):,} rows from 0 to {x_high:,.6g} {x_unit}"
    said += "".join(f", {counted[kind]:,} {kind}" for kind in kinds if counted[kind])
    return _svg(name, said, width, bottom + AXIS, parts) + legend(
        (kind, css_class(kind)) for kind in kinds if kind in there
    )


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """The meaning of the colours, as HTML: (name, class) of each."""
    told = "".join(f'<span><i class="{kind}"></i>{shown(name)}</span>' for name, kind in entries)
    return f'<p class="legend">{told}</p>'


def _mark(mark: Mark, x: float, y: float) -> str:
    """A disc; of a kill a cross, which is told apart without its colour."""
    told = f"<title>{shown(mark.told)}</title>"
    if mark.kind != "killed":
        return f'<circle class="mark {css_class(mark.kind)}" cx="{x:.1f}" cy="{y}" r="4">{told}</circle>'
    path = f"M{x - 4.5:.1f} {y - 4.5}l9 9m0-9l-9 9"
    return (
        f'<g class="{css_class(mark.kind)}">{told}<path class="around" d="{path}"/>'
        f'<path class="cross" d="{path}"/></g>'
    )


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _value(y: float, logarithmic: bool) -> str:
    return power(10**y) if logarithmic else f"{y:.6g}"


def _svg(name: str, said: str, width: float, height: float, parts: Iterable[str], scale: str = "") -> str:
    """The drawing. ``said``: a sentence with its content, for a reader who does not see it."""
    return (
        f'<svg class="drawing" role="img" aria-label="{escape(name)}" viewBox="0 0 {width:g} {height:g}"{scale} '
        f'xmlns="http://www.w3.org/2000/svg"><desc>{shown(said)}</desc>{"".join(parts)}</svg>'
    )


def _left(labels: Iterable[str]) -> int:
    """The width of the left margin for these labels."""
    return 14 + round(6.6 * max(map(len, labels), default=0))


def _x_axis(low: float, high: float, bottom: float, unit: str, left: float, right: float) -> list[str]:
    parts = [f'<line class="axis" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>']
    for x in ticks(low, high, max(3, round((right - left) / 85))):
        across = left + (right - left) * (x - low) / ((high - low) or 1.0)
        label = f"{x:,.10g}"
        # A number at the end of the axis is moved to the left, so that it is not cut.
        most = right + RIGHT - 3.2 * len(label)
        parts.append(_text(min(across, most), bottom + 15, label, "middle"))
    return [*parts, _text(right, bottom + 29, unit, "end")]


def _rule(x1: float, y1: float, x2: float, y2: float, kind: str = "rule") -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, told: str = "") -> str:
    title = f"<title>{shown(told)}</title>" if told and told != text else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{shown(text)}{title}</text>'
