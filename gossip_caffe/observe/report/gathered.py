"""All that the charts show of a run, gathered event by event: of a finished run at once, of a living one as it goes on.

With ``most_points`` the memory of a run is bounded, however long it lasts: figures of every second are thinned evenly,
exchanges are counted, and neighbouring times of ownership are joined. Rare events (states, deaths, tests) are kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gossip_caffe.observe.history.run import Line, Run
from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.tested import ConsensusTest

FIGURES = ("loss", "distance", "learning_rate")
"""The figures of ``progress`` events that are drawn."""
KINDS = frozenset(
    {
        Event.STARTED, Event.STATE, Event.FOUNDED, Event.JOINED, Event.SOLVER_DIED, Event.LOADER_DIED,
        Event.LEASE_LOST, Event.CLAIMED, Event.BORROWED, Event.DONE, Event.RELEASED, Event.PROGRESS,
        Event.EXCHANGED, Event.TESTED, Event.FINISHED, Event.LEFT,
    }
)  # fmt: skip
"""The events that are drawn."""
LEAST_OF_ONE, MOST_OF_ONE = 60, 600
"""The bounds of the points of one figure that are kept of one life."""
CONSENSUS = "consensus"
"""An event of an observer: the consensus distance of all training peers."""
_MARKS = {
    Event.SOLVER_DIED: "solver died",
    Event.LOADER_DIED: "loader died",
    Event.LEASE_LOST: "lease lost",
    Event.FOUNDED: "joined",
    Event.JOINED: "joined",
}
_JOININGS = {Event.FOUNDED: "made the first weights", Event.JOINED: "joined"}


class Thinned:
    """Points (x, y) as they come. Of more than twice ``most`` points every other one is dropped, never the newest.

    ``most``: None keeps all of them.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._every = 1
        self._skipped = 0
        self._kept: list[tuple[float, float]] = []
        self._newest: tuple[float, float] | None = None

    def add(self, x: float, y: float) -> None:
        """Take one more point. A point that is not finite is left out."""
        if not (math.isfinite(x) and math.isfinite(y)):
            return
        self._newest = x, y
        self._skipped += 1
        if self._skipped < self._every and self._kept:
            return
        self._skipped = 0
        self._kept.append((x, y))
        if self._most is not None and len(self._kept) > 2 * self._most:
            self._kept = self._kept[::2]
            self._every *= 2

    def points(self) -> list[tuple[float, float]]:
        """The points that are kept, and the newest."""
        lacks = self._newest is not None and self._kept[-1] != self._newest
        return [*self._kept, self._newest] if lacks and self._newest is not None else list(self._kept)


class GatheredLife:
    """One process with a name. Times are in wall seconds.

    ``states``: (start, stop, state) of each state that has ended; ``marks``: (time, kind, reason); ``owned``: (start,
    stop) of the times with chunks, without the last one if it has not ended (``owns_since``).
    """

    def __init__(self, peer: str, first: Line, most: int | None) -> None:
        self.peer = peer
        self.began_at = self.seen_at = float(first["t"])
        self.state, self.state_since = "joining", self.began_at
        self.states: list[tuple[float, float, str]] = []
        self.marks: list[tuple[float, str, str]] = []
        self.left: str | None = None
        self.owned: list[tuple[float, float]] = []
        self.owns_since = self.began_at
        self.chunks: set[tuple[int, int]] = set()
        self.settled = Thinned(most)
        self.settled_chunks = 0
        self.figures = {name: Thinned(most) for name in FIGURES}
        self.outcomes: Counter[str] = Counter()
        self._most = most

    def take(self, event: Line) -> None:
        """Take the next event of this process."""
        now = self.seen_at = float(event["t"])
        match event["event"]:
            case Event.STATE:
                self.states.append((self.state_since, now, self.state))
                self.state, self.state_since = str(event["new"]), now
            case Event.PROGRESS:
                for name, points in self.figures.items():
                    if event.get(name) is not None:
                        points.add(now, float(event[name]))
            case Event.EXCHANGED:
                self.outcomes[_outcome(event)] += 1
            case Event.CLAIMED | Event.BORROWED | Event.DONE | Event.RELEASED:
                self._own(event, now)
            case Event.LEFT:
                self.left = str(event.get("reason", ""))
            case kind if kind in _MARKS:
                why = event.get("cause") or event.get("reason") or ""
                self.marks.append((now, _MARKS[Event(kind)], _JOININGS.get(kind) or str(why)))
        if event["event"] == Event.LEASE_LOST:
            self._end_ownership(now)
            self.chunks.clear()

    def _own(self, event: Line, now: float) -> None:
        chunks = {(int(event["epoch"]), int(chunk)) for chunk in event["chunks"]}
        if event["event"] in {Event.CLAIMED, Event.BORROWED}:
            if not self.chunks:
                self.owns_since = now
            self.chunks |= chunks
            return
        if event["event"] == Event.DONE:
            self.settled_chunks += len(event["chunks"])
            self.settled.add(now, float(self.settled_chunks))
        if self.chunks and self.chunks <= chunks:
            self._end_ownership(now)
        self.chunks -= chunks

    def _end_ownership(self, now: float) -> None:
        if not self.chunks:
            return
        self.owned.append((self.owns_since, now))
        if self._most is not None and len(self.owned) > 2 * self._most:
            pairs = zip(self.owned[::2], [*self.owned[1::2], self.owned[-1]], strict=False)
            self.owned = [(first[0], second[1]) for first, second in pairs]


class Gathered:
    """A run as the charts show it.

    ``most_points``: about so many points of each figure are kept, of all lives together; None: all of them.
    ``running``: the names whose newest process still runs; it has not ended where its log ends. ``until``: the wall
    second up to which the run is drawn. ``tests``: output → (samples, value) of each test of the consensus.
    """

    def __init__(self, most_points: int | None = None) -> None:
        self.peers: dict[str, list[GatheredLife]] = {}
        self.tests: dict[str, dict[float, float]] = {}
        self.consensus = Thinned(None if most_points is None else MOST_OF_ONE)
        self.running: frozenset[str] = frozenset()
        self.until = 0.0
        self.job = ""
        self.budget_samples = 0
        self.progress_samples = 0
        self.finished = False
        self._most = most_points
        self._count = 0

    @classmethod
    def of(cls, run: Run) -> Gathered:
        """The whole history of a run whose processes have all ended."""
        gathered = cls()
        for life in run.lives:
            gathered.peers.setdefault(life.peer, []).append(GatheredLife(life.peer, life.events[0], None))
            for event in life.events:
                gathered._take_of(gathered.peers[life.peer][-1], event)
        for line in run.seen:
            gathered.observe(line)
        return gathered

    def take(self, event: Line) -> None:
        """Take the next event of a peer. Raises KeyError, TypeError or ValueError for one that is none."""
        peer = str(event["peer"])
        lives = self.peers.setdefault(peer, [])
        if not lives or event["event"] == Event.STARTED:
            lives.append(GatheredLife(peer, event, self._most_of_next()))
        self._take_of(lives[-1], event)

    def _most_of_next(self) -> int | None:
        """The points of a figure that the next life may keep."""
        if self._most is None:
            return None
        self._count += 1
        return min(MOST_OF_ONE, max(LEAST_OF_ONE, self._most // self._count))

    def observe(self, line: Line) -> None:
        """Take a line of an observer of the run."""
        if line["event"] == CONSENSUS:
            self.consensus.add(float(line["t"]), float(line["distance"]))

    def _take_of(self, life: GatheredLife, event: Line) -> None:
        life.take(event)
        self.until = max(self.until, life.seen_at)
        match event["event"]:
            case Event.STARTED:
                self.job = str(event.get("job", self.job))
                self.budget_samples = int(event.get("budget_samples", self.budget_samples))
            case Event.PROGRESS:
                self.progress_samples = max(self.progress_samples, int(event.get("progress_samples", 0)))
            case Event.FINISHED:
                self.finished = True
            case Event.TESTED:
                for name, value in _outputs(event):
                    self.tests.setdefault(name, {})[float(event["progress_samples"])] = value

    @property
    def began_at(self) -> float:
        """The wall second of the first event; 0.0 without one."""
        return min((life.began_at for life in self.lives()), default=0.0)

    @property
    def length_s(self) -> float:
        """Seconds from the first event to the end of the drawing."""
        return max(0.0, self.until - self.began_at)

    @property
    def is_live(self) -> bool:
        """Whether the process of any peer runs."""
        return any(self.runs(lives[-1]) for lives in self.peers.values())

    def lives(self) -> Iterator[GatheredLife]:
        """All lives."""
        return (life for lives in self.peers.values() for life in lives)

    def runs(self, life: GatheredLife) -> bool:
        """Whether the process of this life still runs."""
        return life.left is None and life.peer in self.running and life is self.peers[life.peer][-1]


def ordered(names: Sequence[str] | Mapping[str, object]) -> list[str]:
    """The names in natural order: p2 before p10."""
    return sorted(names, key=lambda name: (len(name), name))


def _outputs(event: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The name and the value of each output of a test that has one value and is no loss."""
    known = {key: event[key] for key in ("progress_samples", "iteration", "outputs")}
    for output in ConsensusTest.from_record(known).outputs:
        if output.scalar is not None and not output.loss_weight:
            yield (f"net #{output.net} {output.name}" if output.net else output.name), output.scalar


def _outcome(event: Line) -> str:
    offered = event.get("side") != "answered"
    if offered or event["outcome"] == "applied":
        return f"{'offered' if offered else 'answered'}, {event['outcome']}"
    return f"refused as {event.get('refusal', '?')}"
