"""The plan of ``plan.shard``, with a cache: after a change of members, only the changed part is computed again.

A plan for a thousand members computes a score of each member for each chunk. When one member joins, leaves or changes
its weight, only its own scores and the chunks that it had can change their best member.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gossip_caffe.shards.plan import Floats, Indices, bounded, favourites

REMEMBERED = 8
"""The number of plans that are kept: peers that share a process mostly see the same members."""
MOST_CHANGES = 0.25
"""If more than this fraction of the members changed, the plan is computed from the beginning."""


@dataclass(frozen=True, slots=True)
class _Scored:
    """The highest score of each chunk, among the members of ``weights`` in the order of their names.

    ``owner``: the index of the member; ``best``: its score. Shape (chunks,), both.
    """

    weights: Mapping[str, float]
    owner: Indices
    best: Floats


@dataclass(frozen=True, slots=True)
class _Plan:
    """The shards of all members of ``weights``."""

    weights: Mapping[str, float]
    chunks: int
    seed: int
    shards: Mapping[str, Indices]


class Planner:
    """The planner of one job, for one peer or for several peers in one process."""

    def __init__(self) -> None:
        self._plans: list[_Plan] = []
        """The plan that was used last is first: comparing with it is quicker than hashing the weights of a thousand
        members.
        """
        self._last: dict[tuple[int, int], _Scored] = {}

    def shard(self, member: str, weights: Mapping[str, float], chunks: int, seed: int) -> Indices:
        """The chunks planned for ``member``, ascending; the same as ``plan.shard``."""
        plan = self._known(weights, chunks, seed)
        if plan is None:
            members = dict(sorted(weights.items()))
            plan = _Plan(members, chunks, seed, self._planned(members, chunks, seed))
        self._plans = [plan, *(other for other in self._plans if other is not plan)][:REMEMBERED]
        return plan.shards.get(member, np.empty(0, dtype=np.int64))

    def _known(self, weights: Mapping[str, float], chunks: int, seed: int) -> _Plan | None:
        for plan in self._plans:
            if plan.chunks == chunks and plan.seed == seed and plan.weights == weights:
                return plan
        return None

    def _planned(self, weights: Mapping[str, float], chunks: int, seed: int) -> Mapping[str, Indices]:
        if not weights:
            return {}
        names = list(weights)
        scored = self._last[chunks, seed] = self._scored(weights, chunks, seed)
        owner = bounded(scored.owner, scored.best, list(weights.values()), names, seed)
        order = np.argsort(owner, kind="stable")
        edges = np.searchsorted(owner[order], np.arange(len(names) + 1))
        return {name: order[edges[index] : edges[index + 1]] for index, name in enumerate(names)}

    def _scored(self, weights: Mapping[str, float], chunks: int, seed: int) -> _Scored:
        last = self._last.get((chunks, seed))
        before = last.weights if last is not None else {}
        gone = [name for name, weight in before.items() if weights.get(name) != weight]
        new = [name for name, weight in weights.items() if before.get(name) != weight]
        everything = np.arange(chunks, dtype=np.uint64)
        if last is None or len(gone) + len(new) > MOST_CHANGES * len(weights):
            return _Scored(weights, *favourites(list(weights.values()), list(weights), everything, seed))
        index = {name: place for place, name in enumerate(weights)}
        moved = np.array([index.get(name, -1) for name in before], dtype=np.int64)
        owner, best = moved[last.owner], last.best.copy()
        places = {name: place for place, name in enumerate(before)}
        # A member whose weight changed must win its own chunks again, too.
        owner[np.isin(last.owner, [places[name] for name in gone])] = -1
        lost = np.flatnonzero(owner < 0)
        owner[lost], best[lost] = favourites(list(weights.values()), list(weights), everything[lost], seed)
        for name in new:
            _, score = favourites([weights[name]], [name], everything, seed)
            better = (score > best) | ((score == best) & (index[name] < owner))
            owner[better], best[better] = index[name], score[better]
        return _Scored(weights, owner, best)
