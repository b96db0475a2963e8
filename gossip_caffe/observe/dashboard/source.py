"""The events of a run as they come, and the peers whose processes run: what the page is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gossip_caffe.clock import Clock
from gossip_caffe.observe.history.run import OBSERVER, Line
from gossip_caffe.observe.log.following import LogFollower, LogTail
from gossip_caffe.observe.log.of_one_job import OfOneJob
from gossip_caffe.observe.log.parts import OPEN, peers_in
from gossip_caffe.observe.report.gathered import KINDS
from gossip_caffe.system.name_locks import is_held, name_lock

QUIET_S = 30.0
"""A peer whose lock cannot be seen here counts as ended this many seconds after its last event."""


@dataclass(frozen=True, slots=True)
class News:
    """What is new since the last look. ``running``: the peers whose newest process runs. ``now``: wall seconds."""

    events: Sequence[Line]
    observed: Sequence[Line]
    running: frozenset[str]
    now: float


class Source(Protocol):
    """A run that can be looked at again and again."""

    def look(self) -> News:
        """What is new since the last look. It may read files, so it is called from a thread."""
        ...


class RunFolder:
    """The event logs in a run folder of this machine. ``job``: of several jobs this one; "" for the newest."""

    def __init__(self, run_dir: Path, clock: Clock, job: str = "") -> None:
        self._run_dir = run_dir
        self._clock = clock
        self._follower = LogFollower(run_dir / "events", KINDS)
        self._observer = LogTail(run_dir, OBSERVER.removesuffix(OPEN))
        self._of_job = OfOneJob(job)
        self._last: dict[str, float] = {}

    def look(self) -> News:
        """Read the new lines of all logs, and see which peers hold the locks on their names."""
        # Asked before the logs are read: a peer that has ended by now has written its last word already.
        peers = peers_in(self._run_dir / "events")
        held = {peer: is_held(name_lock(self._run_dir, peer)) for peer in peers}
        now = self._clock.wall()
        events = [
            event for event in self._of_job.only(self._follower.new()) if "t" in event and "peer" in event
        ]
        for event in events:
            self._last[str(event["peer"])] = float(event["t"])
        running = frozenset(
            peer
            for peer, at in self._last.items()
            if (now - at < QUIET_S if held.get(peer) is None else held[peer])
        )
        return News(events, self._observer.new(), running, now)
