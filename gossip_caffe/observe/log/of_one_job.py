"""The events of one job, in logs that hold those of several: a run folder may be used again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gossip_caffe.observe.log.events import Event


class OfOneJob:
    """The events of one job, in logs that hold those of several; ``job``: "" for the newest of the first call."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._now: dict[str, str] = {}

    def only(self, events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Those of the events that belong to the job."""
        started = [event for event in events if event["event"] == Event.STARTED]
        if not self._job and started:
            self._job = str(started[-1].get("job", ""))
        for event in events:
            peer = str(event.get("peer", ""))
            if event["event"] == Event.STARTED:
                self._now[peer] = str(event.get("job", ""))
            if self._now.get(peer, self._job) == self._job:
                yield event
