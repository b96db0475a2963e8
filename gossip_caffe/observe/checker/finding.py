"""The result of a check: an invariant holds, is broken, or cannot be judged in this run.

A broken invariant comes with the events that show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from gossip_caffe.observe.history.run import Line


class InvariantStatus(StrEnum):
    """The result for one invariant."""

    HOLDS = "holds"
    BROKEN = "broken"
    UNSEEN = "not observable"


@dataclass(frozen=True, slots=True)
class Violation:
    """One violation of an invariant, and the events that show it."""

    reason: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. ``history``: the shortest slice of events that shows a violation, in order."""

    invariant: str
    standing: InvariantStatus
    reason: str
    history: tuple[Line, ...] = ()
    violations: int = 0


MOST_VIOLATIONS = 1000
"""The search stops after this many violations; one is enough to break an invariant."""


def concluded(
    invariant: str, violations: Iterable[Violation], *, seen: Callable[[], bool], holds: str, unseen: str
) -> Finding:
    """The finding of a check: broken by any violation, else holding if ``seen``, else unseen.

    ``seen``: True if the run had any event that the check judges. ``holds`` and ``unseen`` are the texts for these
    cases.
    """
    found = list(_first(violations))
    if found:
        shortest = min(found, key=lambda violation: len(violation.lines))
        return Finding(invariant, InvariantStatus.BROKEN, shortest.reason, shortest.lines, len(found))
    if seen():
        return Finding(invariant, InvariantStatus.HOLDS, holds)
    return Finding(invariant, InvariantStatus.UNSEEN, unseen)


def _first(violations: Iterable[Violation]) -> Iterator[Violation]:
    for count, violation in enumerate(violations):
        if count >= MOST_VIOLATIONS:
            return
        yield violation
