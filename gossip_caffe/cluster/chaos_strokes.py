"""Strokes on a running cluster: signals to processes, etcd killed and started, links parted; each written down."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gossip_caffe.cluster.chaos_aim import Aim, Victim
from gossip_caffe.cluster.chaos_network import Network
from gossip_caffe.cluster.chaos_phases import JOINING, Phase, Watch
from gossip_caffe.cluster.chaos_scenario import APART, AT_ONCE, Act, Scenario, Stroke
from gossip_caffe.cluster.fleet import PeerProcess
from gossip_caffe.cluster.supervisor import Supervisor
from gossip_caffe.observe.checker.run import OBSERVER

LOOK_EVERY_S = 0.05
GUESTS = 8
"""So many peers come, one after another, until one is met in a phase of joining; then anybody is struck."""
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
        network: Network,
        watch: Watch,
        observer: Observer,
        say: Callable[[str], None],
    ) -> None:
        self._supervisor = supervisor
        self._scenario = scenario
        self._network = network
        self._watch = watch
        self._observer = observer
        self._say = say
        self._lasting: set[asyncio.Task[None]] = set()
        self._guests: set[str] = set()
        self._begun = asyncio.Event()
        self._aim: Aim
        self._finished = False

    def look(self, status: dict[str, Any]) -> None:
        """The cluster as it is now."""
        self._finished = status["finished"] is not None
        self._begun.set()

    async def strike(self, stroke: Stroke) -> Phase | None:
        """Carry one out as soon as the cluster is ready; the phase that it met, None when the job was over before."""
        await self._begun.wait()
        if not hasattr(self, "_aim"):
            self._aim = Aim(self._supervisor.fleet, self._watch)
        while True:
            while not self._ready():
                if self._over:
                    return None
                await asyncio.sleep(LOOK_EVERY_S)
            await asyncio.sleep(stroke.wait_s)
            if self._ready() and (met := await self._struck(stroke)) is not None:
                return met
            await asyncio.sleep(LOOK_EVERY_S)

    async def settle(self) -> None:
        """Wait until nothing lasts any more."""
        while self._lasting:
            await asyncio.wait(self._lasting)

    def stop(self) -> None:
        """Nothing happens any more."""
        for task in self._lasting:
            task.cancel()

    @property
    def _over(self) -> bool:
        return self._finished or self._aim.finished

    def _ready(self) -> bool:
        """Whether enough peers train, and the job is not finished."""
        self._aim.look()
        return self._aim.training >= self._scenario.at_least and not self._over

    async def _struck(self, stroke: Stroke) -> Phase | None:
        if stroke.act is Act.ETCD_RESTART:
            self._note(stroke, "")
            self._supervisor.kill_etcd()
            self._later(stroke.for_s, self._supervisor.start_etcd)
            return Phase.TRAINING
        if (victim := await self._victim(stroke)) is None:
            return None
        peer = victim.peer
        self._aim.note(stroke, peer)
        match stroke.act:
            case Act.KILL:
                self._kill(stroke, victim)
            case Act.TERMINATE:
                self._signal(stroke, victim, signal.SIGTERM)
                if stroke.what in {"agent", "all"}:
                    self._task(self._replace(peer))
            case Act.FREEZE:
                pids = self._signal(stroke, victim, signal.SIGSTOP)
                self._set_apart(peer, stroke.for_s, lambda: self._thaw(peer, pids))
            case Act.DISK_FULL:
                self._fill_disk(stroke, peer)
            case _:
                self._strike_link(stroke, peer)
        return victim.phase

    async def _victim(self, stroke: Stroke) -> Victim | None:
        if stroke.when is not None:
            joining = stroke.when in JOINING
            for _ in range(GUESTS if joining else 1):
                if joining and not self._aim.joins:
                    self._invite()
                if (victim := await self._aim.somebody_in(stroke)) is not None or self._over:
                    return victim
        elif stroke.act is Act.DISK_FULL and (maker := self._aim.maker()) is not None:
            return Victim(maker, Phase.TRAINING)
        return self._aim.anybody(stroke)

    def _kill(self, stroke: Stroke, victim: Victim) -> None:
        whole = stroke.what in {"agent", "all"}
        if whole and victim.peer.name in self._guests:
            victim.peer.stopping = True  # nobody takes its place
        self._signal(stroke, victim, signal.SIGKILL)
        if victim.held and not whole:
            self._supervisor.fleet.signal([victim.peer.pid], signal.SIGCONT)

    def _signal(self, stroke: Stroke, victim: Victim, number: signal.Signals) -> list[int]:
        parts = self._supervisor.fleet.parts(victim.peer)
        pids = [pid for part, pid in parts.items() if stroke.what in {part, "all"}]
        self._note(stroke, victim.peer.name, victim.phase)
        self._supervisor.fleet.signal(pids, number)
        return pids

    # ── who comes and goes ────────────────────────────────────────────────────────────────────────────────────────

    def _invite(self) -> None:
        """One more peer comes, to be struck while it joins; it leaves again should it come to train."""
        guest = self._supervisor.fleet.start()
        self._guests.add(guest.name)
        self._task(self._see_off(guest))

    async def _see_off(self, guest: PeerProcess) -> None:
        while guest.running and not self._over:
            if self._aim.trains(guest) and not guest.stopping:
                guest.stopping = True
                self._supervisor.fleet.signal([guest.pid], signal.SIGTERM)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _replace(self, peer: PeerProcess) -> None:
        """Another one comes once this one has left in good order."""
        peer.stopping = True
        while peer.running:
            await asyncio.sleep(LOOK_EVERY_S)
        if not self._over:
            self._supervisor.fleet.start()

    # ── what lasts ────────────────────────────────────────────────────────────────────────────────────────────────

    def _thaw(self, peer: PeerProcess, pids: list[int]) -> None:
        if peer.running:
            self._supervisor.fleet.signal(pids, signal.SIGCONT)

    def _fill_disk(self, stroke: Stroke, peer: PeerProcess) -> None:
        """By the limit that the kernel holds a process's files to: it needs no rights, and no disk to fill."""
        self._note(stroke, peer.name)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)  # peers have ours
        _limit_files(peer, (int(stroke.amount), hard))
        # Apart: a child that it started meanwhile would have the limit for ever.
        self._set_apart(peer, stroke.for_s, lambda: _limit_files(peer, (soft, hard)))

    def _strike_link(self, stroke: Stroke, peer: PeerProcess) -> None:
        self._note(stroke, peer.name)
        end = self._network.strike(stroke.act, stroke.amount, peer.name, peer.pid)
        if stroke.act in APART:
            self._set_apart(peer, stroke.for_s, end)
        elif stroke.act not in AT_ONCE:
            self._later(stroke.for_s, end)

    def _set_apart(self, peer: PeerProcess, seconds: float, end: Callable[[], None]) -> None:
        def over() -> None:
            self._aim.apart.discard(peer.name)
            end()

        self._aim.apart.add(peer.name)
        self._later(seconds, over)

    def _note(self, stroke: Stroke, peer: str, phase: Phase | None = None) -> None:
        whole = stroke.what in {"agent", "all"}
        fault = _NAMES.get(stroke.act, stroke.act.value) if whole else f"{stroke.act.value}-{stroke.what}"
        at = {"phase": phase.value} if phase is not None else {}
        self._observer.saw("fault", fault=fault, peer=peer, what=stroke.what, number=stroke.number, **at)
        whom = "etcd" if not peer else peer if stroke.what == "all" else f"{stroke.what} of {peer}"
        words = f", {phase}" if phase is not None else ""
        self._say(f"{stroke.number + 1}/{self._scenario.strokes} {stroke.words}: {whom}{words}")

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            what()

        self._task(wait())

    def _task(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._lasting.add(task)
        task.add_done_callback(self._lasting.discard)


def _limit_files(peer: PeerProcess, limits: tuple[int, int]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
        resource.prlimit(peer.pid, resource.RLIMIT_FSIZE, limits)
