"""How much of the differences between trials each parameter explains, from the trials' values alone. Pure."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from gossip_caffe.tune.study.parameters import Parameter, Value

LEAST_TRIALS = 4


@dataclass(frozen=True, slots=True)
class Importance:
    """A parameter and its share, 0 to 1, of the variance of the ranks of the trials' values."""

    path: str
    share: float


def importances(
    parameters: Sequence[Parameter], trials: Sequence[tuple[dict[str, Value], float]]
) -> tuple[Importance, ...]:
    """The share of the variance between groups (eta squared), of each parameter by itself, the largest first.

    ``trials``: (values, value of the objective). The groups are a parameter's choices, or quantiles of its range. Ranks
    take the place of the values, so that one trial that diverged does not decide. The share that as many groups
    explain by chance is subtracted (epsilon squared). Empty for fewer than LEAST_TRIALS trials.
    """
    if len(trials) < LEAST_TRIALS:
        return ()
    ranks = _ranks([value for _, value in trials])
    found = [
        Importance(one.path, _explained(_groups(one, [values[one.path] for values, _ in trials]), ranks))
        for one in parameters
    ]
    return tuple(sorted(found, key=lambda entry: (-entry.share, entry.path)))


def _ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value; equal values have the mean of their ranks."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    ranks = [0.0] * len(values)
    at = 0
    while at < len(order):
        end = at
        while end + 1 < len(order) and values[order[end + 1]] == values[order[at]]:
            end += 1
        for place in order[at : end + 1]:
            ranks[place] = (at + end) / 2
        at = end + 1
    return ranks


def _groups(parameter: Parameter, values: Sequence[Value]) -> list[str]:
    """The group of each value: itself, or a quantile of about the square root of the number of values."""
    if parameter.choices:
        return [json.dumps(value) for value in values]
    bins = max(2, math.isqrt(len(values)))
    ranks = _ranks([float(value) for value in values])
    return [str(min(bins - 1, int(rank * bins / len(values)))) for rank in ranks]


def _explained(groups: Sequence[str], ranks: Sequence[float]) -> float:
    count, mean = len(ranks), sum(ranks) / len(ranks)
    total = sum((rank - mean) ** 2 for rank in ranks)
    if total == 0.0:
        return 0.0
    of_group: dict[str, list[float]] = defaultdict(list)
    for group, rank in zip(groups, ranks, strict=True):
        of_group[group].append(rank)
    between = sum(len(own) * (sum(own) / len(own) - mean) ** 2 for own in of_group.values())
    by_chance = (len(of_group) - 1) / (count - 1)
    share = between / total
    return max(0.0, (share - by_chance) / (1 - by_chance)) if by_chance < 1 else 0.0
