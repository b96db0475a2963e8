"""What a check says: an invariant holds, is broken (with the history that shows it), or cannot be seen in this run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Line = Mapping[str, Any]
"""One event as it stands in a log, with its ``peer``."""


class Standing(StrEnum):
    """What a run says about an invariant."""

    HOLDS = "holds"
    BROKEN = "broken"
    UNSEEN = "not observable"


@dataclass(frozen=True, slots=True)
class Violation:
    """One way in which an invariant is broken, and the lines that show it."""

    reason: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a run says about one invariant. ``history``: the shortest slice that shows a violation, in order."""

    invariant: str
    standing: Standing
    reason: str
    history: tuple[Line, ...] = ()
    violations: int = 0


MOST_VIOLATIONS = 1000
"""So many violations are looked for; one is enough to break an invariant."""


def concluded(
    invariant: str, violations: Iterable[Violation], *, seen: Callable[[], bool], holds: str, unseen: str
) -> Finding:
    """The finding of a check: broken by any violation; else ``holds`` where there was something to be ``seen``."""
    found = list(_first(violations))
    if found:
        shortest = min(found, key=lambda violation: len(violation.lines))
        return Finding(invariant, Standing.BROKEN, shortest.reason, shortest.lines, len(found))
    if seen():
        return Finding(invariant, Standing.HOLDS, holds)
    return Finding(invariant, Standing.UNSEEN, unseen)


def _first(violations: Iterable[Violation]) -> Iterator[Violation]:
    for count, violation in enumerate(violations):
        if count >= MOST_VIOLATIONS:
            return
        yield violation
