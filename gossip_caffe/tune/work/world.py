"""The world of a worker: peers as processes, the making of jobs, and a voice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from gossip_caffe.clock import Clock
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.etcd.store import Guard, Store
from gossip_caffe.observe.log.ignored import Note, discard_note
from gossip_caffe.tune.board.trial import TrialRecord
from gossip_caffe.tune.search.search import Search
from gossip_caffe.tune.study.spec import StudySpec
from gossip_caffe.tune.work.decisions import PeerEnd


class TrialPeer(Protocol):
    """A peer of this worker in a trial's job."""

    @property
    def end(self) -> PeerEnd | None:
        """How it ended; None while it runs."""
        ...

    async def leave(self) -> None:
        """Ask it to leave, and return when it has ended; it is killed if it takes too long."""
        ...


class StartPeer(Protocol):
    """Starts a peer for a job. ``on_end`` is called once, from the event loop. Raises EnvironmentProblem."""

    def __call__(self, job: str, on_end: Callable[[], None]) -> TrialPeer:
        """Start it."""
        ...


MakeJob = Callable[[TrialRecord], Awaitable[JobSpec]]
"""Makes the job of a trial. Raises ModelError, DataError or UsageError."""


@dataclass(frozen=True, slots=True)
class WorkerWorld:
    """The world of one worker. ``may_help``: it joins running trials while it has none of its own.

    ``guard`` is called with the guards that each write of the search must have from now on.
    """

    study: StudySpec
    store: Store
    clock: Clock
    search: Search
    make_job: MakeJob
    start_peer: StartPeer
    say: Callable[[str], None]
    may_help: bool = True
    lease_ttl_s: float = 5.0
    ignored: Note = discard_note
    guard: Callable[[tuple[Guard, ...]], None] = lambda _: None
