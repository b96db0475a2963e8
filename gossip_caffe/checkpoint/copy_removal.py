"""The copies on a disk that may be removed: a pure decision. A record in the store alone never removes a copy."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

GRACE_S = 600.0
"""A copy stays at least this many seconds after this peer saw that its checkpoint is no longer announced."""
NEWEST_WHOLE = 2
"""The number of newest whole copies that are never removed, whatever is announced."""
MOST_WAITING = 8
"""Limit of waiting copies of withdrawn checkpoints; beyond it the oldest go at once. It bounds a job's disk space."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of a checkpoint that is not announced.

    It has the seconds for which this peer has seen that, and the peer that withdrew the announcement ("" for none).
    """

    checkpoint: str
    gone_s: float
    withdrawn_by: str = ""


@dataclass(frozen=True, slots=True)
class CopyToRemove:
    """A copy to remove, and the reason."""

    copy: Copy
    why: str


def copies_to_remove(copies: Iterable[Copy], newest_whole: Collection[str], last: int) -> list[CopyToRemove]:
    """The copies to remove now, oldest first, among one job's copies that are not announced.

    ``newest_whole``: the newest copies here that were verified; they stay. ``last``: this many of the copies that no
    peer withdrew stay for good.
    """
    ordered = sorted(copies, key=lambda copy: copy.checkpoint)
    may_go = [copy for copy in ordered if copy.checkpoint not in newest_whole]
    waiting = [copy for copy in may_go if copy.withdrawn_by and copy.gone_s < GRACE_S]
    crowd = {copy.checkpoint for copy in waiting[: max(0, len(waiting) - MOST_WAITING)]}
    unexplained = [copy.checkpoint for copy in ordered if not copy.withdrawn_by]
    kept = set(unexplained[max(0, len(unexplained) - last) :])
    found = []
    for copy in may_go:
        if copy.withdrawn_by and (copy.gone_s >= GRACE_S or copy.checkpoint in crowd):
            found.append(CopyToRemove(copy, f"{copy.withdrawn_by} took it back"))
        elif not copy.withdrawn_by and copy.gone_s >= GRACE_S and copy.checkpoint not in kept:
            found.append(CopyToRemove(copy, f"older than the {last} newest that no peer withdrew"))
    return found


def next_decision_in_s(copies: Iterable[Copy]) -> float:
    """Seconds until the decision can change although no checkpoint is announced or withdrawn."""
    return min((GRACE_S - copy.gone_s for copy in copies if copy.gone_s < GRACE_S), default=float("inf"))
