"""Parallel coordinates as SVG text: an axis for each parameter and one for the value, a line for each trial. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from gossip_caffe.observe.report.style import line_class
from gossip_caffe.tune.study.parameters import Parameter, Value
from gossip_caffe.tune.views.table import short_path, shown

_WIDTH, _HEIGHT, _SIDE, _TOP, _BOTTOM = 960, 280, 60, 34, 24
_FAINTEST = 0.12


@dataclass(frozen=True, slots=True)
class CoordinateTrial:
    """One line: a trial's number, its parameters' values, and the value of the objective."""

    number: int
    values: dict[str, Value]
    value: float


def parallel_coordinates(
    parameters: Sequence[Parameter], trials: Sequence[CoordinateTrial], objective: str, goal: str
) -> str:
    """The chart; "" without trials. The better a trial's value, the stronger its line, and better ones are on top."""
    if not trials or not parameters:
        return ""
    low, high = min(trial.value for trial in trials), max(trial.value for trial in trials)
    axes = len(parameters) + 1
    across = [_SIDE + (_WIDTH - 2 * _SIDE) * place / (axes - 1) for place in range(axes)]
    parts: list[str] = []

    def goodness(trial: CoordinateTrial) -> float:
        share = (trial.value - low) / (high - low) if high > low else 1.0
        return share if goal == "max" else 1.0 - share

    for trial in sorted(trials, key=goodness):
        heights = [_share(one, trial.values[one.path]) for one in parameters]
        heights.append((trial.value - low) / (high - low) if high > low else 0.5)
        points = " ".join(f"{x:.1f},{_down(share):.1f}" for x, share in zip(across, heights, strict=True))
        told = ", ".join(f"{path} {shown(value)}" for path, value in sorted(trial.values.items()))
        parts.append(
            f'<polyline class="{line_class(0)}" opacity="{_opacity(goodness(trial)):.2f}" points="{points}">'
            f"<title>trial {trial.number}: {trial.value:.4g}; {escape(told)}</title></polyline>"
        )
    ends = [_ends(one) for one in parameters] + [(f"{low:.4g}", f"{high:.4g}")]
    names = [short_path(one.path) for one in parameters] + [objective]
    for x, name, (bottom, top) in zip(across, names, ends, strict=True):
        parts.append(f'<line class="axis" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts += [
            _text(x, _TOP - 18, name),
            _text(x, _TOP - 5, top),
            _text(x, _HEIGHT - _BOTTOM + 13, bottom),
        ]
    return (
        f'<svg class="drawing" role="img" aria-label="parallel coordinates of the trials" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _share(parameter: Parameter, value: Value) -> float:
    """The height of a value on its axis, 0 to 1."""
    if parameter.choices:
        place = next((at for at, one in enumerate(parameter.values) if one == value), 0)
        return place / (len(parameter.choices) - 1) if len(parameter.choices) > 1 else 0.5
    number, low, high = float(value), parameter.low, parameter.high
    if parameter.log:
        number, low, high = math.log(number), math.log(low), math.log(high)
    return min(1.0, max(0.0, (number - low) / (high - low)))


def _ends(parameter: Parameter) -> tuple[str, str]:
    if parameter.choices:
        return shown(parameter.values[0]), shown(parameter.values[-1])
    return f"{parameter.low:.4g}", f"{parameter.high:.4g}"


def _down(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)


def _opacity(goodness: float) -> float:
    """The opacity of a line: that of the best is 1, and half of the trials are hardly there."""
    return _FAINTEST + (1.0 - _FAINTEST) * goodness**3


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{escape(text)}</text>'
