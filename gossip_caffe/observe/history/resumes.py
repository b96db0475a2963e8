"""The events that a rollback undid. They are ordered by the store's revisions, where the log has them.

The wall clocks of several machines differ, and a clock may be set back. The store's revisions are one order for all
peers. A peer that logs a revision wrote all later events when the store was at that revision or later.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.runs import BESIDE


@dataclass(frozen=True, slots=True)
class Resume:
    """A rollback at wall second ``at``. The chunks in ``done``, and the epochs before ``folded``, stay settled.

    ``revision``: the store's revision when the event was logged; infinite in a log without it.
    """

    at: float
    revision: float
    folded: int
    done: Mapping[int, frozenset[int]]

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Resume:
        """The rollback that an event ``resumed`` records."""
        done = {int(epoch): frozenset(chunks) for epoch, chunks in event["done"].items()}
        return cls(event.get("t", math.inf), event.get("revision", math.inf), event["folded"], done)

    def keeps(self, epoch: int, chunk: int) -> bool:
        """True if a settled chunk stays settled."""
        return epoch < self.folded or chunk in self.done.get(epoch, frozenset())


class Reading:
    """The store's revision and the clock, while the events of one life are read in order.

    ``revisions_hold``: False when the store has lost revisions and assigned them again.
    """

    def __init__(self, *, revisions_hold: bool) -> None:
        self._revisions_hold = revisions_hold
        self._revision = -math.inf
        self._wall = -math.inf

    def read(self, event: Mapping[str, Any]) -> None:
        """Read the next event of this life."""
        if event["event"] in BESIDE:
            return  # it may stand before batches that are older, and changes no account
        # The clock may be set back: an event that follows a rollback in this life's log stays after the rollback.
        self._wall = max(self._wall, event.get("t", math.inf))
        match event["event"]:
            case Event.RESUMED:
                self._revision = max(self._revision, event.get("revision", -math.inf))
            case Event.CLAIMED | Event.DONE | Event.UNKNOWN:
                self._revision = max(self._revision, *event.get("revisions", ()), -math.inf)

    def before(self, resumes: Iterable[Resume]) -> Sequence[Resume]:
        """The rollbacks before which the newest event was written.

        Training under a claim from before a rollback counts as before it, even if it happened later: the peer must
        claim the chunk again to settle it.
        """
        return [resume for resume in resumes if self._is_before(resume)]

    def _is_before(self, resume: Resume) -> bool:
        if self._revisions_hold and math.isfinite(self._revision) and math.isfinite(resume.revision):
            return self._revision < resume.revision
        return self._wall < resume.at
