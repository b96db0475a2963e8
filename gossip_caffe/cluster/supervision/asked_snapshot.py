"""A snapshot on request: the peers make it while they train, or the supervisor fetches their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gossip_caffe.background import DetachedTasks
from gossip_caffe.clock import Clock
from gossip_caffe.cluster.supervision.living_weights import LivingWeights
from gossip_caffe.cluster.supervision.snapshot_files import SnapshotFiles
from gossip_caffe.errors import GossipCaffeError

PATIENCE_S = 20.0
PATIENCE_STEPS = 3.0
"""A lone peer first ends its step. A checkpoint of several peers needs etcd, and the disk of one of the peers."""


class Peers(Protocol):
    """The methods of a supervisor that a snapshot on request needs. ``step_s``: an iteration's seconds, 0: unknown."""

    step_s: float

    def ask_for_snapshot(self) -> None:
        """Ask the peers for a snapshot now."""
        ...

    async def living_weights(self) -> LivingWeights | None:
        """Fetch the mean weights of the peers that have trained; None when none answers."""
        ...


class AskedSnapshot:
    """The request for a snapshot of a cluster. ``SnapshotFiles.collect`` writes what the peers make.

    Where they make none within ``PATIENCE_S``, or ``PATIENCE_STEPS`` iterations, the mean of their living weights is
    written, without a .solverstate.
    """

    def __init__(self, peers: Peers, files: SnapshotFiles, clock: Clock, say: Callable[[str], None]) -> None:
        self._peers = peers
        self._files = files
        self._clock = clock
        self._say = say
        self._asked_at = 0.0
        self._fetching = DetachedTasks()

    def ask(self, by: str) -> None:
        """Ask for a snapshot. A request while another one waits changes nothing. ``by``: the signal, for people."""
        if self._files.asked:
            return
        self._say(f"{by}: a snapshot is written, and the training goes on")
        self._asked_at = self._clock.monotonic()
        self._files.ask()
        self._peers.ask_for_snapshot()

    def look(self) -> None:
        """Fetch the living weights, if the peers have made no snapshot in time."""
        patience_s = max(PATIENCE_S, PATIENCE_STEPS * self._peers.step_s)
        if self._files.asked and not self._fetching and self._clock.monotonic() > self._asked_at + patience_s:
            self._fetching.begin(self._fetch(), "the living weights")

    async def _fetch(self) -> None:
        try:
            living = await self._peers.living_weights()
            if living is None:
                # No peer has trained yet, and those that start now have not heard of the request.
                self._asked_at = self._clock.monotonic()
                self._peers.ask_for_snapshot()
                return
            self._say(f"snapshot {self._files.save(living)} (without a .solverstate)")
        except GossipCaffeError as error:
            self._say(f"no snapshot is written: {error}")
            self._files.forget()
