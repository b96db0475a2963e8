"""The compaction of etcd's history while a job runs, for an etcd that does not compact itself.

etcd keeps every older value of a key until it is asked to compact, and by default nothing asks it. So the peer that
holds the duty of checkpoints asks: values older than ``KEPT_S`` go. No peer reads that far back: a watch whose stream
broke resumes within seconds, or lists its keys again. Where another process compacts sooner, this does nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from gossip_caffe.clock import Clock
from gossip_caffe.errors import StoreError
from gossip_caffe.membership.etcd.store import Store

KEPT_S = 600.0
EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class RevisionAt:
    """The store's revision at one time, in seconds of the monotonic clock."""

    at_s: float
    revision: int


class History:
    """The revisions of the store that one peer has seen, with their times."""

    def __init__(self) -> None:
        self._marks: deque[RevisionAt] = deque()

    def note(self, mark: RevisionAt, *, ours: bool) -> int:
        """Note a revision; returns the revision before which etcd may compact now, 0 for none.

        ``ours``: whether this peer holds the duty. A peer that has just got the duty, or that finds the store at an
        earlier revision, forgets the revisions that it has noted before.
        """
        if not ours or (self._marks and mark.revision < self._marks[-1].revision):
            self._marks.clear()
        if ours:
            self._marks.append(mark)
        old = 0
        while self._marks and self._marks[0].at_s <= mark.at_s - KEPT_S:
            old = self._marks.popleft().revision
        return old


async def compact_history(
    store: Store, clock: Clock, ours: Callable[[], bool], revision: Callable[[], int]
) -> None:
    """Ask for a compaction every minute while ``ours`` returns True, for ever.

    ``revision`` returns the revision of this peer's newest write.
    """
    history = History()
    while True:
        await clock.sleep(EVERY_S)
        if old := history.note(RevisionAt(clock.monotonic(), revision()), ours=ours()):
            try:
                await store.compact(old)
            except StoreError:
                pass  # the store is away, has compacted already, or does not allow it: asked again in a minute
