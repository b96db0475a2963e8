"""A job that is looked at again and again: the snapshots from etcd, and what changed between them."""

from __future__ import annotations

import asyncio

from gossip_caffe.clock import Clock, SystemClock
from gossip_caffe.cluster.job_view import read_snapshot
from gossip_caffe.errors import StoreError
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.etcd.polling import poll_interval_s
from gossip_caffe.membership.etcd.store import Store
from gossip_caffe.membership.jobs import job_or_only_one
from gossip_caffe.observe.log.ignored import Note, discard_note
from gossip_caffe.observe.views.watched import Watched, advanced, begun, noted, without_store
from gossip_caffe.plain import shown

LOOK_EVERY_S = 1.0
ANSWER_WITHIN_S = 3.0
"""A look that takes longer counts as one without an answer: a view must not stand still with etcd."""


class Watching:
    """A job while it is watched. ``watched``: the newest snapshot, with the past since the first."""

    def __init__(self, store: Store, spec: JobSpec, clock: Clock, watched: Watched) -> None:
        self.store = store
        self.spec = spec
        self.clock = clock
        self.watched = watched
        self._ignored: set[tuple[str, str]] = set()

    @property
    def pause_s(self) -> float:
        """The seconds until the next look: among many peers it comes later, as etcd then has more to tell."""
        return poll_interval_s(LOOK_EVERY_S, len(self.watched.snapshot.peers))

    async def look(self) -> Watched:
        """Look once more. etcd may be away: the old snapshot then stays, with the reason."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                snapshot = await read_snapshot(self.store, self.spec, self.clock, self._ignore)
        except TimeoutError:
            why = f"no answer within {ANSWER_WITHIN_S:.0f} s"
            self.watched = without_store(self.watched, why, self.clock.wall())
        except StoreError as error:
            self.watched = without_store(self.watched, error.message, self.clock.wall())
        else:
            self.watched = advanced(self.watched, snapshot)
        return self.watched

    def note(self, words: str, *, alarming: bool = False) -> None:
        """Add a line about an event that etcd does not hold."""
        self.watched = noted(self.watched, words, self.clock.wall(), alarming=alarming)

    def _ignore(self, key: str, revision: int, why: str) -> None:
        del revision
        if (key, why) not in self._ignored:
            self._ignored.add((key, why))
            self.note(f"etcd: {shown(key)} is ignored: {why}", alarming=True)


async def watching(store: Store, job: str, ignored: Note = discard_note) -> Watching:
    """Look at a job for the first time; "" for the only one. ``ignored``: as in ``read_snapshot``, for this look.

    Raises NotFound, UsageError or StoreError.
    """
    clock = SystemClock()
    spec = await job_or_only_one(store, job)
    return Watching(store, spec, clock, begun(await read_snapshot(store, spec, clock, ignored)))
