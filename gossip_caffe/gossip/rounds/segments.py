"""The segments of a vector, one for each member of a round, and the order in which pairs of members trade them."""

from __future__ import annotations

import math
from itertools import pairwise

ALIGNED = 16
"""Segments begin at multiples of so many values, which is a cache line of float32."""


def segments(values: int, members: int) -> tuple[slice, ...]:
    """One slice of ``values`` for each member, in order, of nearly equal length; the last ones may be empty."""
    length = math.ceil(math.ceil(values / members) / ALIGNED) * ALIGNED
    edges = [min(values, index * length) for index in range(members + 1)]
    return tuple(slice(start, stop) for start, stop in pairwise(edges))


def calls_of(index: int, members: int) -> tuple[int, ...]:
    """The members that member ``index`` calls, in order; each pair of members is called by one of the two.

    The order is that of a round-robin tournament: while every member calls one after another, each is in about one
    trade at a time.
    """
    seats = members + members % 2
    called: list[int] = []
    for turn in range(seats - 1):
        other = _opponent(index, turn, seats)
        if other < members and index < other:
            called.append(other)
    return tuple(called)


def _opponent(index: int, turn: int, seats: int) -> int:
    """The opponent of a member in one turn of the circle method; it may be the empty seat."""
    last = seats - 1
    if index == last:
        return (turn * (seats // 2)) % last
    if (2 * index - turn) % last == 0:
        return last
    return (turn - index) % last
