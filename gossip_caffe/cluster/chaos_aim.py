"""Who is struck, and when: peers are watched, and one is held still in the very phase in which it is to die."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.cluster.chaos_phases import JOINING, Phase, Watch
from gossip_caffe.cluster.chaos_scenario import Stroke, struck
from gossip_caffe.cluster.fleet import Fleet, PeerProcess
from gossip_caffe.peer.lifecycle import State

LOOK_EVERY_S = 0.003
"""Phases of an exchange and of joining take some milliseconds."""
PATIENCE_S = 20.0
"""So long a peer is waited for that comes into a phase; then one is struck in whatever it is at."""
STOPS_WITHIN_S = 0.05


@dataclass(frozen=True, slots=True)
class Victim:
    """Who is struck. ``phase``: what it is at; ``held``: it stands still, so that it is that for certain."""

    peer: PeerProcess
    phase: Phase
    held: bool = False


class Aim:
    """Watches the peers of one cluster. ``apart``: who is not to be struck now, for something else lasts there."""

    def __init__(self, fleet: Fleet, watch: Watch) -> None:
        self.apart: set[str] = set()
        self._fleet = fleet
        self._watch = watch
        self._strokes_of: Counter[str] = Counter()
        self._trained_at: dict[str, int] = {}

    def look(self) -> None:
        """Read what the peers have written down since."""
        self._watch.look(peer.name for peer in self._fleet.running)

    @property
    def finished(self) -> bool:
        """Whether somebody has seen the job's end."""
        return any(said.finished for said in self._watch.said.values())

    @property
    def training(self) -> int:
        """How many train, and nothing lasts there."""
        return sum(
            said.state == State.TRAINING and said.trained > 0 and peer not in self.apart
            for peer, said in self._watch.said.items()
        )

    def trains(self, peer: PeerProcess) -> bool:
        """Whether this one trains."""
        said = self._watch.said.get(peer.name)
        return said is not None and said.state == State.TRAINING and said.trained > 0

    @property
    def joins(self) -> bool:
        """Whether somebody is on the way in who may be struck there."""
        return any(self._phase(peer) in JOINING for peer in self._living())

    def anybody(self, stroke: Stroke) -> Victim | None:
        """One who has the part that is struck, whatever it is at; None when nobody has."""
        peers = {peer.name: peer for peer in self._living() if self._may_lose(peer, stroke.what)}
        if stroke.what != "all":
            peers = {name: peer for name, peer in peers.items() if stroke.what in self._fleet.parts(peer)}
        if len(self._fleet.running) < 2 or not peers:
            return None
        peer = peers[struck(list(peers), self._strokes_of, stroke.pick)]
        return Victim(peer, self._phase(peer))

    def maker(self) -> PeerProcess | None:
        """Who has made the newest checkpoint; None when it is gone."""
        made = {peer.name: self._watch.said[peer.name].checkpointed_at for peer in self._living()}
        name = max(made, key=lambda peer: made[peer], default="")
        return self._fleet.peers[name] if made.get(name) else None

    async def somebody_in(self, stroke: Stroke) -> Victim | None:
        """The first who comes into the phase of a stroke, held still there.

        None when nobody does for long, or when the phase is one of joining and nobody is on the way in any more: such a
        phase may last some milliseconds, and can be missed.
        """
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and not self.finished:
            self.look()
            for peer in self._living():
                if self._phase(peer) is stroke.when and self._may_lose(peer, stroke.what):
                    if self._holds(peer, stroke):
                        return Victim(peer, self._phase(peer), held=True)
                    self._fleet.signal([peer.pid], signal.SIGCONT)
            if stroke.when in JOINING and not self.joins:
                return None
            await asyncio.sleep(LOOK_EVERY_S)
        return None

    def note(self, stroke: Stroke, peer: PeerProcess) -> None:
        """This one is struck."""
        self._strokes_of[peer.name] += 1
        if stroke.what in {"solver", "loader"}:
            self._trained_at[peer.name] = self._watch.said[peer.name].trained

    def _holds(self, peer: PeerProcess, stroke: Stroke) -> bool:
        """Stop a peer's agent; whether it is still in the phase then, and has the part that is struck."""
        self._fleet.signal([peer.pid], signal.SIGSTOP)
        deadline = time.monotonic() + STOPS_WITHIN_S
        while not _stands_still(peer.pid):
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_EVERY_S / 10)  # nothing else may happen meanwhile
        self.look()
        return self._phase(peer) is stroke.when and (
            stroke.what == "all" or stroke.what in self._fleet.parts(peer)
        )

    def _phase(self, peer: PeerProcess) -> Phase:
        return self._watch.phase(peer.name, time.time())

    def _living(self) -> list[PeerProcess]:
        """Who may be struck."""
        return [
            peer
            for peer in self._fleet.running
            if peer.name in self._watch.said and peer.name not in self.apart and not peer.stopping
        ]

    def _may_lose(self, peer: PeerProcess, what: str) -> bool:
        """A child that only ever dies makes its peer leave: that is what the peer is for, and not what is tried."""
        if what not in {"solver", "loader"} or peer.name not in self._trained_at:
            return True
        return self._watch.said[peer.name].trained > self._trained_at[peer.name]


def _stands_still(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False  # it has ended
