"""Strokes on a running cluster: signals to processes, etcd killed and started, links parted; each written down."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gossip_caffe.cluster.chaos_scenario import Act, Scenario, Stroke, struck
from gossip_caffe.cluster.fleet import PeerProcess
from gossip_caffe.cluster.links import Links
from gossip_caffe.cluster.supervisor import Supervisor
from gossip_caffe.observe.checker.run import OBSERVER

LOOK_EVERY_S = 0.1
_NAMES = {Act.ETCD_RESTART: "etcd-away", Act.DELAY: "slow", Act.CAP: "slow"}
"""As the checker calls them, where it has another name (docs/verify.md)."""


class Observer:
    """Writes down what was done to a run, and what was left of it."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / OBSERVER

    def saw(self, event: str, **fields: object) -> None:
        """One line more."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps({"t": time.time(), "event": event, **fields}) + "\n")


class Striker:
    """Carries out strokes on one cluster, one after another; what lasts goes on beside the next ones."""

    def __init__(
        self,
        supervisor: Supervisor,
        scenario: Scenario,
        links: Links,
        observer: Observer,
        say: Callable[[str], None],
    ) -> None:
        self._supervisor = supervisor
        self._scenario = scenario
        self._links = links
        self._observer = observer
        self._say = say
        self._strokes_of: Counter[str] = Counter()
        self._lasting: set[asyncio.Task[None]] = set()
        self._apart: set[str] = set()
        self._iteration_at: dict[str, int] = {}
        self.status: dict[str, Any] = {"peers": [], "finished": None}

    def look(self, status: dict[str, Any]) -> None:
        """The cluster as it is now."""
        self.status = status

    @property
    def ready(self) -> bool:
        """Whether enough peers train, etcd answers, and the job is not finished."""
        states = [peer["status"] for peer in self.status["peers"] if peer["running"] and "status" in peer]
        training = sum(entry["state"] == "training" and entry["iteration"] > 0 for entry in states)
        return training >= self._scenario.at_least and self.status["finished"] is None

    async def strike(self, stroke: Stroke) -> bool:
        """Carry one out as soon as the cluster is ready; False when the job was finished before."""
        while True:
            while not self.ready:
                if self.status["finished"] is not None:
                    return False
                await asyncio.sleep(LOOK_EVERY_S)
            await asyncio.sleep(stroke.wait_s)
            if self.ready and self._struck(stroke):
                return True
            await asyncio.sleep(LOOK_EVERY_S)

    async def settle(self) -> None:
        """Wait until nothing lasts any more."""
        while self._lasting:
            await asyncio.wait(self._lasting)

    def _struck(self, stroke: Stroke) -> bool:
        if stroke.act is Act.ETCD_RESTART:
            self._note(stroke, "")
            self._supervisor.kill_etcd()
            self._later(stroke.for_s, self._supervisor.start_etcd)
            return True
        if (peer := self._victim(stroke)) is None:
            return False
        self._strokes_of[peer.name] += 1
        match stroke.act:
            case Act.KILL:
                self._signal(stroke, peer, signal.SIGKILL)
            case Act.TERMINATE:
                self._signal(stroke, peer, signal.SIGTERM)
                if stroke.what in {"agent", "all"}:
                    self._task(self._replace(peer))
            case Act.FREEZE:
                pids = self._signal(stroke, peer, signal.SIGSTOP)
                self._apart.add(peer.name)
                self._later(stroke.for_s, lambda: self._thaw(peer, pids))
            case _:
                self._strike_link(stroke, peer)
        return True

    def _victim(self, stroke: Stroke) -> PeerProcess | None:
        fleet = self._supervisor.fleet
        peers = {
            peer.name: peer for peer in fleet.running if peer.name not in self._apart and not peer.stopping
        }
        if stroke.what in {"solver", "loader"}:
            # A child that only ever dies makes its peer leave: that is what the peer is for, and not what is tried.
            now = self._iterations()
            peers = {
                name: peer
                for name, peer in peers.items()
                if name not in self._iteration_at or now.get(name, 0) > self._iteration_at[name]
            }
        if stroke.what != "all":
            peers = {name: peer for name, peer in peers.items() if stroke.what in fleet.parts(peer)}
        if len(fleet.running) < 2 or not peers:
            return None
        return peers[struck(list(peers), self._strokes_of, stroke.pick)]

    def _signal(self, stroke: Stroke, peer: PeerProcess, number: signal.Signals) -> list[int]:
        parts = self._supervisor.fleet.parts(peer)
        pids = [pid for part, pid in parts.items() if stroke.what in {part, "all"}]
        self._note(stroke, peer.name)
        if stroke.what in {"solver", "loader"}:
            self._iteration_at[peer.name] = self._iterations().get(peer.name, 0)
        self._supervisor.fleet.signal(pids, number)
        return pids

    def _iterations(self) -> dict[str, int]:
        return {
            peer["peer"]: int(peer["status"]["iteration"])
            for peer in self.status["peers"]
            if peer["running"] and "status" in peer
        }

    def _thaw(self, peer: PeerProcess, pids: list[int]) -> None:
        self._apart.discard(peer.name)
        if peer.running:
            self._supervisor.fleet.signal(pids, signal.SIGCONT)

    async def _replace(self, peer: PeerProcess) -> None:
        """Another one comes once this one has left in good order."""
        peer.stopping = True
        while peer.running:
            await asyncio.sleep(LOOK_EVERY_S)
        if self.status["finished"] is None:
            self._supervisor.fleet.start()

    def _strike_link(self, stroke: Stroke, peer: PeerProcess) -> None:
        link = self._links.to(peer.name)
        self._note(stroke, peer.name)
        match stroke.act:
            case Act.PARTITION:
                self._links.part(peer.name, peer.pid)
                self._apart.add(peer.name)
                self._later(stroke.for_s, lambda: self._rejoin(peer.name))
            case Act.DELAY:
                link.delay_s = stroke.amount
                self._later(stroke.for_s, lambda: setattr(link, "delay_s", 0.0))
            case Act.CAP:
                link.bytes_per_s = stroke.amount
                self._later(stroke.for_s, lambda: setattr(link, "bytes_per_s", 0.0))
            case _:
                link.reset()

    def _rejoin(self, name: str) -> None:
        self._apart.discard(name)
        self._links.join(name)

    def _note(self, stroke: Stroke, peer: str) -> None:
        whole = stroke.what in {"agent", "all"}
        fault = _NAMES.get(stroke.act, stroke.act.value) if whole else f"{stroke.act.value}-{stroke.what}"
        self._observer.saw("fault", fault=fault, peer=peer, what=stroke.what, number=stroke.number)
        whom = "etcd" if not peer else peer if stroke.what == "all" else f"{stroke.what} of {peer}"
        self._say(f"{stroke.number + 1}/{self._scenario.strokes} {stroke.words}: {whom}")

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            what()

        self._task(wait())

    def _task(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._lasting.add(task)
        task.add_done_callback(self._lasting.discard)
