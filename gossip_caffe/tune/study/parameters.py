"""The parameters of a study's space: a field's path, and the values that it may take."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gossip_caffe.errors import UsageError

Value = str | int | float | bool
ROOTS = ("solver", "net", "settings")
_KINDS = ("float", "int", "choices", "fixed")
_MOST_CHOICES = 1000
_MOST = 1e30
_GOLDEN = 0.381966
"""A share of a range whose value is no round number: a field that takes integers alone refuses it."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One field, and its values.

    ``path``: "solver.FIELD", "net.LAYER.FIELD" or "settings.NAME". ``kind``: "float" and "int" take values from ``low``
    to ``high``, in steps of ``step`` (0: any), and by their logarithm with ``log``; "choices" takes one of ``choices``;
    "fixed" always its one choice. Each choice is the JSON of a value.
    """

    path: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float = 0.0
    choices: tuple[str, ...] = ()

    @property
    def is_searched(self) -> bool:
        """False for a fixed value."""
        return self.kind != "fixed"

    @property
    def values(self) -> tuple[Value, ...]:
        """The choices as values; empty for a range."""
        return tuple(json.loads(choice) for choice in self.choices)

    @property
    def probes(self) -> tuple[Value, ...]:
        """The values with which a study is checked before it begins: a range's middle and ends, or every choice."""
        if self.choices:
            return self.values
        return tuple(dict.fromkeys((self.at(_GOLDEN), self.at(0.0), self.at(1.0))))

    def at(self, share: float) -> Value:
        """The value of a range at ``share`` (0 to 1) of the way from its low end to its high one."""
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        value = min(max(value, self.low), self.high)
        if self.step:
            value = self.low + math.floor((value - self.low) / self.step + 1e-9) * self.step
        return math.floor(value + 0.5) if self.kind == "int" else value

    def grid(self, points: int) -> tuple[Value, ...]:
        """The values that a grid tries: every choice, every step, or ``points`` values of a range without steps."""
        if self.choices:
            return self.values
        if self.step and not self.log:
            steps = math.floor((self.high - self.low) / self.step + 1e-9)
            found: list[Value] = [self.low + number * self.step for number in range(steps + 1)]
            return tuple(int(value) for value in found) if self.kind == "int" else tuple(found)
        if self.kind == "int" and not self.log and self.high - self.low < points:
            return tuple(range(int(self.low), int(self.high) + 1))
        return tuple(dict.fromkeys(self.at(number / max(1, points - 1)) for number in range(points)))

    def accepts(self, value: object) -> bool:
        """True if the value is one of this parameter's."""
        if self.choices:
            return any(value == choice and type(value) is type(choice) for choice in self.values)
        if isinstance(value, bool) or not isinstance(value, int if self.kind == "int" else int | float):
            return False
        return (
            self.low <= value <= self.high or math.isclose(value, self.low) or math.isclose(value, self.high)
        )


def read_parameter(path: str, given: object, where: str) -> Parameter:
    """A parameter from its entry in the [space] of a study file. Raises UsageError, which begins with ``where``."""
    if path.partition(".")[0] not in ROOTS or path.count(".") < 1:
        raise UsageError(
            f"{where}: {path!r} is no path of a field",
            remedy="write solver.FIELD, net.LAYER.FIELD or settings.NAME",
        )
    if isinstance(given, str | int | float | bool):
        return Parameter(path, "fixed", choices=(_choice(given, path, where),))
    if not isinstance(given, dict):
        raise UsageError(f"{where}: {path} has no range", remedy="write { float = [1e-4, 1e-1], log = true }")
    kinds = [kind for kind in _KINDS if kind in given]
    if len(kinds) != 1:
        what = f"says {' and '.join(kinds)}" if kinds else "says no kind of values"
        raise UsageError(f"{where}: {path} {what}", remedy=f"write exactly one of {', '.join(_KINDS)}")
    kind = kinds[0]
    allowed = {kind} | ({"log", "step"} if kind in {"float", "int"} else set())
    if unknown := sorted(set(given) - allowed):
        raise UsageError(
            f"{where}: {path}: {unknown[0]!r} is unknown", remedy=f"known: {', '.join(sorted(allowed))}"
        )
    if kind == "fixed":
        return Parameter(path, "fixed", choices=(_choice(given["fixed"], path, where),))
    if kind == "choices":
        return _of_choices(path, given["choices"], where)
    return _of_range(path, kind, given, where)


def _choice(value: object, path: str, where: str) -> str:
    if not isinstance(value, str | int | float | bool) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        raise UsageError(
            f"{where}: {path}: {value!r} is no value of a field", remedy="give numbers, texts, true or false"
        )
    if isinstance(value, str) and not (value.isprintable() and value):
        raise UsageError(
            f"{where}: {path}: an empty text, or one that cannot be printed", remedy="give another"
        )
    return json.dumps(value)


def _of_choices(path: str, given: object, where: str) -> Parameter:
    if not isinstance(given, list) or not given:
        raise UsageError(
            f"{where}: {path}: choices is no list of values", remedy='write choices = ["MAX", "AVE"]'
        )
    choices = tuple(_choice(value, path, where) for value in given)
    if len(set(choices)) != len(choices) or len(choices) > _MOST_CHOICES:
        raise UsageError(
            f"{where}: {path}: a choice is there twice, or there are too many", remedy="give each once"
        )
    return Parameter(path, "choices", choices=choices)


def _of_range(path: str, kind: str, given: Mapping[str, Any], where: str) -> Parameter:
    ends = given[kind]
    numbers = int if kind == "int" else (int, float)
    if (
        not isinstance(ends, list)
        or len(ends) != 2
        or not all(isinstance(end, numbers) and not isinstance(end, bool) for end in ends)
    ):
        raise UsageError(f"{where}: {path}: {kind} is no range", remedy=f"write {kind} = [LOW, HIGH]")
    low, high = float(ends[0]), float(ends[1])
    if not -_MOST <= low < high <= _MOST:
        raise UsageError(
            f"{where}: {path}: the range {ends[0]} to {ends[1]} is empty", remedy="give LOW < HIGH"
        )
    log, step = given.get("log", False), given.get("step", 0)
    if not isinstance(log, bool):
        raise UsageError(f"{where}: {path}: log is {log!r}", remedy="write log = true")
    if log and low <= 0:
        raise UsageError(f"{where}: {path}: a logarithmic range from {ends[0]}", remedy="give a LOW above 0")
    if isinstance(step, bool) or not isinstance(step, numbers) or step < 0 or step > high - low:
        raise UsageError(f"{where}: {path}: step is {step!r}", remedy="give one that fits into the range")
    if log and step:
        raise UsageError(f"{where}: {path}: log and step exclude each other", remedy="leave one out")
    return Parameter(path, kind, low, high, log, float(step))


def flattened(space: Mapping[str, Any], before: str = "") -> list[tuple[str, object]]:
    """The entries of a [space], each with its whole path: a dotted key without quotes makes nested tables."""
    found: list[tuple[str, object]] = []
    for key, given in space.items():
        path = f"{before}.{key}" if before else key
        if isinstance(given, dict) and given and not _is_range(given):
            found += flattened(given, path)
        else:
            found.append((path, given))
    return found


def _is_range(given: Mapping[str, Any]) -> bool:
    """True for a parameter's table, and not for a table of tables, whose keys are parts of paths."""
    return bool(set(given) & {*_KINDS, "log", "step"}) and not all(
        isinstance(entry, dict) for entry in given.values()
    )
