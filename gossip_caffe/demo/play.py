"""Plays the script on a running cluster: watches the job, lets a peer join, kills one, waits for the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gossip_caffe.clock import Clock
from gossip_caffe.demo.script import Join, Kill, Scene, next_act
from gossip_caffe.observe.status import PeerStatus

SAY_EVERY_S = 4.0


@dataclass(frozen=True, slots=True)
class View:
    """The cluster at one moment.

    ``statuses`` are what the running peers say about themselves, in the order of their start; ``rows`` the same
    as a table (cluster/view.py). ``checkpoint`` is the job's last one, None while it trains.
    """

    progress_samples: int
    budget_samples: int
    statuses: tuple[PeerStatus, ...]
    seconds: float = 0.0
    rows: tuple[tuple[str, ...], ...] = ()
    checkpoint: str | None = None

    @property
    def progress(self) -> float:
        """Share of the budget that is trained, 0 to 1."""
        return self.progress_samples / self.budget_samples if self.budget_samples else 0.0

    @property
    def training(self) -> tuple[str, ...]:
        """Names of the peers that train."""
        return tuple(status.peer for status in self.statuses if status.state == "training")


class Stage(Protocol):
    """The cluster as the script uses it."""

    async def look(self) -> View:
        """Wait, half a second or so, for the next look at it. Raises GossipCaffeError when no peer is left."""
        ...

    async def add_peer(self) -> str:
        """Start one more peer; returns its name."""
        ...

    async def kill(self, peer: str) -> None:
        """``kill -9`` all processes of a peer."""
        ...


class Audience(Protocol):
    """Who is shown what happens."""

    def see(self, view: View) -> None:
        """Show the cluster as it is; called at every look."""
        ...

    def hear(self, line: str) -> None:
        """Say one line."""
        ...


@dataclass(frozen=True, slots=True)
class Played:
    """How it went. ``checkpoint`` is the job's last one, empty when it did not finish before the deadline."""

    checkpoint: str
    joined: tuple[str, ...]
    killed: tuple[str, ...]
    seconds: float


async def play(stage: Stage, audience: Audience, clock: Clock, *, peers: int, deadline_s: float) -> Played:
    """Play the script until the job has finished or ``deadline_s`` has passed.

    Raises GossipCaffeError when all peers have ended before the job.
    """
    began = clock.monotonic()
    all_train = False
    joined: list[str] = []
    killed: list[str] = []
    while clock.monotonic() - began < deadline_s:
        view = await stage.look()
        audience.see(view)
        if view.checkpoint is not None:
            return Played(view.checkpoint, tuple(joined), tuple(killed), clock.monotonic() - began)
        if not all_train and len(view.training) >= peers:
            all_train = True
            audience.hear(f"all {peers} peers train, {clock.monotonic() - began:.1f} s after their start")
        # The first peers must all train before one can be said to join them.
        if all_train:
            await _act(stage, audience, view, joined, killed)
    return Played("", tuple(joined), tuple(killed), clock.monotonic() - began)


async def _act(stage: Stage, audience: Audience, view: View, joined: list[str], killed: list[str]) -> None:
    candidates = tuple(peer for peer in view.training if peer not in joined)
    act = next_act(Scene(view.progress, candidates, joined=bool(joined), killed=bool(killed)))
    match act:
        case Join():
            audience.hear(f"{act.reason}: one more peer joins")
            joined.append(await stage.add_peer())
        case Kill():
            audience.hear(f"{act.reason}: kill -9 {act.peer}")
            await stage.kill(act.peer)
            killed.append(act.peer)


def progress_line(view: View) -> str:
    """Return one line about the cluster, for where there is no terminal."""
    rate = sum(status.samples_per_s for status in view.statuses)
    losses = [status.loss for status in view.statuses if status.loss is not None]
    loss = f", loss {sum(losses) / len(losses):.4f}" if losses else ""
    peers = " ".join(f"{status.peer}:{status.state}" for status in view.statuses) or "no peer yet"
    return (
        f"{view.seconds:5.0f} s  {view.progress:4.0%} of {view.budget_samples:,} samples, "
        f"{rate:,.0f} samples/s{loss}  [{peers}]"
    )


class Lines:
    """An audience without a terminal: what happens, and a line about the cluster every few seconds."""

    def __init__(self, say: Callable[[str], None], clock: Clock) -> None:
        self._say = say
        self._clock = clock
        self._said_at = clock.monotonic() - SAY_EVERY_S

    def see(self, view: View) -> None:
        """Say a line when the last one is some seconds ago."""
        now = self._clock.monotonic()
        if now - self._said_at >= SAY_EVERY_S:
            self._said_at = now
            self.hear(progress_line(view))

    def hear(self, line: str) -> None:
        """Say it."""
        self._say(line)
