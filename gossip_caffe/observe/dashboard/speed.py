"""The speed of a job: the samples that all of its peers train in a second, over the last seconds."""

from __future__ import annotations

from collections import deque

from gossip_caffe.observe.history.run import Line
from gossip_caffe.observe.log.events import Event

SPAN_S = 15.0
LEAST_S = 3.0
"""A speed needs reports that are at least so far apart."""


class Speed:
    """The speed, from the ``progress`` events of all peers."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def take(self, event: Line) -> None:
        """Take the next event, in order of time. Raises KeyError, TypeError or ValueError for one that is none."""
        if event["event"] != Event.PROGRESS:
            return
        at, samples = float(event["t"]), int(event.get("progress_samples", 0))
        if self._seen and samples < self._seen[-1][1]:
            samples = self._seen[-1][1]  # this peer has not seen yet what another one has
        self._seen.append((at, samples))
        while self._seen[-1][0] - self._seen[0][0] > SPAN_S:
            self._seen.popleft()

    def samples_per_s(self, now: float) -> float | None:
        """The samples in a second at the wall second ``now``; None where too little is known, or nothing is new."""
        if not self._seen or now - self._seen[-1][0] > SPAN_S:
            return None
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        return (last - first) / (ended - began) if ended - began >= LEAST_S else None
