"""The run of the demonstration's script on a cluster: it watches the job, adds a peer, kills one, waits for the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gossip_caffe.clock import Clock
from gossip_caffe.demo.script import DemoState, Join, Kill, next_action
from gossip_caffe.observe.log.status import PeerStatus

SAY_EVERY_S = 4.0


@dataclass(frozen=True, slots=True)
class View:
    """The cluster at one moment, ``seconds`` after its start.

    ``statuses``: those of the running peers, in the order of their start; ``rows``: the same as a table
    (cluster/view.py). ``checkpoint``: the finished job's last checkpoint; None while it trains.
    """

    progress_samples: int
    budget_samples: int
    statuses: tuple[PeerStatus, ...]
    seconds: float = 0.0
    rows: tuple[tuple[str, ...], ...] = ()
    checkpoint: str | None = None

    @property
    def progress(self) -> float:
        """The share of the budget that is trained, 0 to 1."""
        return self.progress_samples / self.budget_samples if self.budget_samples else 0.0

    @property
    def training(self) -> tuple[str, ...]:
        """The names of the peers that train."""
        return tuple(status.peer for status in self.statuses if status.state == "training")


class DemoCluster(Protocol):
    """The operations of a cluster that the script needs."""

    async def look(self) -> View:
        """Wait for the next view of the cluster, about 0.5 s. Raises GossipCaffeError when no peer is left."""
        ...

    async def add_peer(self) -> str:
        """Start one more peer. Returns its name."""
        ...

    async def kill(self, peer: str) -> None:
        """``kill -9`` all processes of a peer."""
        ...


class DemoDisplay(Protocol):
    """The display of the demonstration."""

    def show(self, view: View) -> None:
        """Show the newest view of the cluster."""
        ...

    def say(self, line: str) -> None:
        """Print one line about an event."""
        ...


@dataclass(frozen=True, slots=True)
class ScriptRun:
    """The result of the script. ``checkpoint``: the job's last one; empty when the job did not finish in time.

    ``joined``, ``killed``: names of peers; ``seconds``: the time from the start to the end.
    """

    checkpoint: str
    joined: tuple[str, ...]
    killed: tuple[str, ...]
    seconds: float


async def run_script(
    cluster: DemoCluster, display: DemoDisplay, clock: Clock, *, peers: int, deadline_s: float
) -> ScriptRun:
    """Run the script until the job has finished or ``deadline_s`` seconds have passed.

    Raises GossipCaffeError when all peers have ended before the job.
    """
    began = clock.monotonic()
    all_train = False
    joined: list[str] = []
    killed: list[str] = []
    while clock.monotonic() - began < deadline_s:
        view = await cluster.look()
        display.show(view)
        if view.checkpoint is not None:
            return ScriptRun(view.checkpoint, tuple(joined), tuple(killed), clock.monotonic() - began)
        if not all_train and len(view.training) >= peers:
            all_train = True
            display.say(f"all {peers} peers train, {clock.monotonic() - began:.1f} s after their start")
        # A peer joins only after all of the first peers train.
        if all_train:
            await _take_action(cluster, display, view, joined, killed)
    return ScriptRun("", tuple(joined), tuple(killed), clock.monotonic() - began)


async def _take_action(
    cluster: DemoCluster, display: DemoDisplay, view: View, joined: list[str], killed: list[str]
) -> None:
    candidates = tuple(peer for peer in view.training if peer not in joined)
    action = next_action(DemoState(view.progress, candidates, joined=bool(joined), killed=bool(killed)))
    match action:
        case Join():
            display.say(f"{action.reason}: one more peer joins")
            joined.append(await cluster.add_peer())
        case Kill():
            display.say(f"{action.reason}: kill -9 {action.peer}")
            await cluster.kill(action.peer)
            killed.append(action.peer)


def progress_line(view: View) -> str:
    """Return one line about the cluster, for output without a terminal."""
    rate = sum(status.samples_per_s for status in view.statuses)
    losses = [status.loss for status in view.statuses if status.loss is not None]
    loss = f", loss {sum(losses) / len(losses):.4f}" if losses else ""
    peers = " ".join(f"{status.peer}:{status.state}" for status in view.statuses) or "no peer yet"
    return (
        f"{view.seconds:5.0f} s  {view.progress:4.0%} of {view.budget_samples:,} samples, "
        f"{rate:,.0f} samples/s{loss}  [{peers}]"
    )


class Lines:
    """The display without a terminal: each event, and a line about the cluster every SAY_EVERY_S."""

    def __init__(self, say: Callable[[str], None], clock: Clock) -> None:
        self._say = say
        self._clock = clock
        self._said_at = clock.monotonic() - SAY_EVERY_S

    def show(self, view: View) -> None:
        """Print a line about the cluster if the last one was printed at least SAY_EVERY_S ago."""
        now = self._clock.monotonic()
        if now - self._said_at >= SAY_EVERY_S:
            self._said_at = now
            self.say(progress_line(view))

    def say(self, line: str) -> None:
        """Print the line."""
        self._say(line)
