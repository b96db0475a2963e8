"""The choice of an injection's target: peers are watched, and one is stopped in the phase that the injection names."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.chaos.phases import JOINING, Phase, PhaseWatch
from gossip_caffe.chaos.scenario import Injection, choose_target
from gossip_caffe.cluster.fleet.fleet import Fleet, PeerProcess
from gossip_caffe.peer.core.lifecycle import State

LOOK_EVERY_S = 0.003
"""The interval of looks at the peers. Phases of joining and of an exchange last some milliseconds."""
PATIENCE_S = 20.0
"""The time to wait for a peer in a phase. After that the target is a peer in any phase."""
STOPS_WITHIN_S = 0.05


@dataclass(frozen=True, slots=True)
class Target:
    """The target of an injection, and its ``phase``. ``held``: its agent is stopped, so the phase is certain."""

    peer: PeerProcess
    phase: Phase
    held: bool = False


class Targeting:
    """Chooses targets among the peers of one cluster, except the ``excluded`` ones, where an injection lasts."""

    def __init__(self, fleet: Fleet, watch: PhaseWatch) -> None:
        self.excluded: set[str] = set()
        self._fleet = fleet
        self._watch = watch
        self._injections_of: Counter[str] = Counter()
        self._trained_at: dict[str, int] = {}

    def look(self) -> None:
        """Read the new lines of the peers' event logs."""
        self._watch.look(peer.name for peer in self._fleet.running)

    @property
    def finished(self) -> bool:
        """Whether a peer has logged the end of the job."""
        return any(logged.finished for logged in self._watch.logged.values())

    @property
    def training(self) -> int:
        """The number of peers that train and where no injection lasts."""
        return sum(
            logged.state == State.TRAINING and logged.trained > 0 and peer not in self.excluded
            for peer, logged in self._watch.logged.items()
        )

    def trains(self, peer: PeerProcess) -> bool:
        """Whether this peer trains."""
        logged = self._watch.logged.get(peer.name)
        return logged is not None and logged.state == State.TRAINING and logged.trained > 0

    @property
    def joins(self) -> bool:
        """Whether a possible target is in a phase of joining."""
        return any(self._phase(peer) in JOINING for peer in self._living())

    def any_target(self, injection: Injection) -> Target | None:
        """A target in any phase that has the process which the injection names; None if there is none."""
        peers = {peer.name: peer for peer in self._living() if self._may_lose(peer, injection.what)}
        if injection.what != "all":
            peers = {name: peer for name, peer in peers.items() if injection.what in self._fleet.parts(peer)}
        if len(self._fleet.running) < 2 or not peers:
            return None
        peer = peers[choose_target(list(peers), self._injections_of, injection.pick)]
        return Target(peer, self._phase(peer))

    def checkpoint_maker(self) -> PeerProcess | None:
        """The peer that made the newest checkpoint; None if it has gone."""
        made = {peer.name: self._watch.logged[peer.name].checkpointed_at for peer in self._living()}
        name = max(made, key=lambda peer: made[peer], default="")
        return self._fleet.peers[name] if made.get(name) else None

    async def target_in_phase(self, injection: Injection) -> Target | None:
        """Wait for the first peer in the phase of the injection, and stop its agent there.

        None if no peer comes into it within PATIENCE_S. None also if it is a phase of joining and no peer joins any
        more: such a phase may last some milliseconds, and can be missed.
        """
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and not self.finished:
            self.look()
            for peer in self._living():
                if self._phase(peer) is injection.when and self._may_lose(peer, injection.what):
                    if self._holds(peer, injection):
                        return Target(peer, self._phase(peer), held=True)
                    self._fleet.signal([peer.pid], signal.SIGCONT)
            if injection.when in JOINING and not self.joins:
                return None
            await asyncio.sleep(LOOK_EVERY_S)
        return None

    def note(self, injection: Injection, peer: PeerProcess) -> None:
        """Record that this peer is the target of an injection."""
        self._injections_of[peer.name] += 1
        if injection.what in {"solver", "loader"}:
            self._trained_at[peer.name] = self._watch.logged[peer.name].trained

    def _holds(self, peer: PeerProcess, injection: Injection) -> bool:
        """Stop a peer's agent. True if it is still in the phase then, and has the process that the injection names."""
        self._fleet.signal([peer.pid], signal.SIGSTOP)
        deadline = time.monotonic() + STOPS_WITHIN_S
        while not _stands_still(peer.pid):
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_EVERY_S / 10)  # blocks the event loop: nothing else may happen meanwhile
        self.look()
        return self._phase(peer) is injection.when and (
            injection.what == "all" or injection.what in self._fleet.parts(peer)
        )

    def _phase(self, peer: PeerProcess) -> Phase:
        return self._watch.phase(peer.name, time.time())

    def _living(self) -> list[PeerProcess]:
        """The possible targets."""
        return [
            peer
            for peer in self._fleet.running
            if peer.name in self._watch.logged and peer.name not in self.excluded and not peer.stopping
        ]

    def _may_lose(self, peer: PeerProcess, what: str) -> bool:
        """Whether a peer may lose a child process: it must have trained since it lost one.

        A peer whose child dies again and again leaves by design, which is not what a chaos run tests.
        """
        if what not in {"solver", "loader"} or peer.name not in self._trained_at:
            return True
        return self._watch.logged[peer.name].trained > self._trained_at[peer.name]


def _stands_still(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False  # the process has ended
