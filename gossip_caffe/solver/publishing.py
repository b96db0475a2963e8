"""The decision when a solver publishes a snapshot: often enough for exchanges, and in 1 % of its time."""

from __future__ import annotations

from dataclasses import dataclass

SHARE_OF_TIME = 0.01
"""The share of the training time that publishing may take."""


@dataclass(frozen=True, slots=True)
class Publication:
    """The decision: ``due`` if a snapshot is to be published now, and the reason for or against it."""

    due: bool
    reason: str


def publication(*, since_last_s: float, copy_s: float, requested: bool, corrected: bool) -> Publication:
    """Decide if a snapshot is due.

    ``since_last_s``: seconds since the last publication; ``copy_s``: seconds that a publication takes; ``requested``:
    the agent asks for a snapshot; ``corrected``: a correction was added since the last publication.
    """
    if corrected:
        return Publication(True, "a correction was added")
    if requested:
        return Publication(True, "the agent asks for it")
    if since_last_s * SHARE_OF_TIME >= copy_s:
        return Publication(True, "the last snapshot is old enough")
    return Publication(False, "publishing would take more than its share of the time")
