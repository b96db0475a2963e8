"""When a solver publishes a snapshot: fresh enough for exchanges, rare enough to cost next to nothing."""

from __future__ import annotations

from dataclasses import dataclass

SHARE_OF_TIME = 0.01
"""Part of the training time that publishing may take."""


@dataclass(frozen=True, slots=True)
class Publication:
    """Whether to publish now, and why or why not."""

    due: bool
    reason: str


def publication(*, since_last_s: float, copy_s: float, requested: bool, corrected: bool) -> Publication:
    """``since_last_s``: time since the last one; ``copy_s``: what one costs."""
    if corrected:
        return Publication(True, "a correction was added")
    if requested:
        return Publication(True, "the agent asks for it")
    if since_last_s * SHARE_OF_TIME >= copy_s:
        return Publication(True, "the last one is old enough")
    return Publication(False, "it would cost more than its share of the time")
