"""The injection of faults into a running cluster: signals, restarts of etcd, changes of links; each one is logged."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gossip_caffe.background import DetachedTasks
from gossip_caffe.chaos.network import PeersNetwork
from gossip_caffe.chaos.phases import JOINING, Phase, PhaseWatch
from gossip_caffe.chaos.poison import Stranger
from gossip_caffe.chaos.scenario import INSTANT, ISOLATING, Act, Injection, Scenario
from gossip_caffe.chaos.slow_streams import slow_streams
from gossip_caffe.chaos.targeting import Target, Targeting
from gossip_caffe.cluster.fleet.fleet import PeerProcess
from gossip_caffe.cluster.supervision.supervisor import Supervisor
from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport
from gossip_caffe.observe.history.run import OBSERVER
from gossip_caffe.system.folders import folder_within, open_within
from gossip_caffe.system.unix_sockets import folder_of_sockets

LOOK_EVERY_S = 0.05
INSTEAD = "give another folder"
EXTRA_PEERS = 8
"""The largest number of extra peers that start, one after another, until one is met in a phase of joining.

If none is met there, the target is a peer in any phase.
"""
_NAMES = {Act.ETCD_RESTART: "etcd-away", Act.DELAY: "slow", Act.CAP: "slow"}
"""The checker's names of the acts for which it has another name (docs/internals/verify.md)."""


class Observer:
    """Logs the injections of a run, and its leftovers, in the run's folder."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / OBSERVER

    def saw(self, event: str, **fields: object) -> None:
        """Write one line."""
        folder_within(self._path.parent, INSTEAD)
        with open_within(self._path, "a", INSTEAD) as file:
            file.write(json.dumps({"t": time.time(), "event": event, **fields}) + "\n")


class Injector:
    """Carries out injections on one cluster, one after another. Lasting ones go on beside the next ones."""

    def __init__(
        self,
        supervisor: Supervisor,
        scenario: Scenario,
        network: PeersNetwork,
        watch: PhaseWatch,
        observer: Observer,
        say: Callable[[str], None],
    ) -> None:
        self._supervisor = supervisor
        self._scenario = scenario
        self._network = network
        self._watch = watch
        self._observer = observer
        self._say = say
        self._lasting = DetachedTasks(self._failed)
        self._failure: BaseException | None = None
        self._extra_peers: set[str] = set()
        self._begun = asyncio.Event()
        self._targeting: Targeting
        self._finished = False

    def look(self, status: dict[str, Any]) -> None:
        """Take the cluster's newest status."""
        self._finished = status["finished"] is not None
        self._begun.set()

    async def inject(self, injection: Injection) -> Phase | None:
        """Carry out one injection as soon as the cluster is ready.

        Returns the phase of its target; None if the job was over before.
        """
        await self._begun.wait()
        if not hasattr(self, "_targeting"):
            self._targeting = Targeting(self._supervisor.fleet, self._watch)
        while True:
            while not self._ready():
                if self._over:
                    return None
                await asyncio.sleep(LOOK_EVERY_S)
            await asyncio.sleep(injection.wait_s)
            if self._ready() and (met := await self._inject_now(injection)) is not None:
                return met
            await asyncio.sleep(LOOK_EVERY_S)

    async def settle(self) -> None:
        """Wait until no injection lasts any more. Raises the error of an injection that failed."""
        await self._lasting.ended()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Cancel the injections that last."""
        self._lasting.cancel()

    @property
    def _over(self) -> bool:
        return self._finished or self._targeting.finished

    def _ready(self) -> bool:
        """Whether enough peers train and the job is not finished."""
        self._targeting.look()
        return self._targeting.training >= self._scenario.at_least and not self._over

    async def _inject_now(self, injection: Injection) -> Phase | None:
        if injection.act is Act.ETCD_RESTART:
            self._note(injection, "")
            self._supervisor.kill_etcd()
            self._later(injection.for_s, self._supervisor.start_etcd)
            return Phase.TRAINING
        if (target := await self._find_target(injection)) is None:
            return None
        peer = target.peer
        self._targeting.note(injection, peer)
        match injection.act:
            case Act.KILL:
                self._kill(injection, target)
            case Act.TERMINATE:
                self._signal(injection, target, signal.SIGTERM)
                if injection.what in {"agent", "all"}:
                    self._task(self._replace(peer))
            case Act.FREEZE:
                pids = self._signal(injection, target, signal.SIGSTOP)
                self._exclude(peer, injection.for_s, lambda: self._thaw(peer, pids))
            case Act.POISON:
                await self._poison(injection, peer)
            case Act.DISK_FULL:
                self._fill_disk(injection, peer)
            case Act.SLOW_STREAM:
                self._note(injection, peer.name)
                self._task(self._open_slow_streams(injection, peer))
            case _:
                self._inject_on_link(injection, peer)
        return target.phase

    async def _find_target(self, injection: Injection) -> Target | None:
        if injection.when is not None:
            joining = injection.when in JOINING
            for _ in range(EXTRA_PEERS if joining else 1):
                if joining and not self._targeting.joins:
                    self._start_extra_peer()
                if (target := await self._targeting.target_in_phase(injection)) is not None or self._over:
                    return target
        elif injection.act is Act.DISK_FULL and (maker := self._targeting.checkpoint_maker()) is not None:
            return Target(maker, Phase.TRAINING)
        return self._targeting.any_target(injection)

    def _kill(self, injection: Injection, target: Target) -> None:
        whole = injection.what in {"agent", "all"}
        if whole and target.peer.name in self._extra_peers:
            target.peer.stopping = True  # no other peer takes its place
        self._signal(injection, target, signal.SIGKILL)
        if target.held and not whole:
            self._supervisor.fleet.signal([target.peer.pid], signal.SIGCONT)

    def _signal(self, injection: Injection, target: Target, number: signal.Signals) -> list[int]:
        parts = self._supervisor.fleet.parts(target.peer)
        pids = [pid for part, pid in parts.items() if injection.what in {part, "all"}]
        self._note(injection, target.peer.name, target.phase)
        self._supervisor.fleet.signal(pids, number)
        return pids

    # ── extra peers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _start_extra_peer(self) -> None:
        """Start an extra peer as a target in a phase of joining. It leaves again as soon as it trains."""
        extra = self._supervisor.fleet.start()
        self._extra_peers.add(extra.name)
        self._task(self._stop_once_it_trains(extra))

    async def _stop_once_it_trains(self, extra: PeerProcess) -> None:
        while extra.running and not self._over:
            if self._targeting.trains(extra) and not extra.stopping:
                extra.stopping = True
                self._supervisor.fleet.signal([extra.pid], signal.SIGTERM)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _replace(self, peer: PeerProcess) -> None:
        """Start another peer after this one has left gracefully."""
        peer.stopping = True
        while peer.running:
            await asyncio.sleep(LOOK_EVERY_S)
        if not self._over:
            self._supervisor.fleet.start()

    # ── injections that last ──────────────────────────────────────────────────────────────────────────────────────────

    def _thaw(self, peer: PeerProcess, pids: list[int]) -> None:
        if peer.running:
            self._supervisor.fleet.signal(pids, signal.SIGCONT)

    async def _open_slow_streams(self, injection: Injection, peer: PeerProcess) -> None:
        if (address := await self._supervisor.address_of(peer.name)) is not None:
            security = self._supervisor.security
            await slow_streams(address, self._supervisor.job, injection.for_s, security=security)

    def _fill_disk(self, injection: Injection, peer: PeerProcess) -> None:
        """Set the kernel's limit of a process's file sizes. This needs no privileges, and fills no disk."""
        self._note(injection, peer.name)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)  # peers inherit the limit of this process
        _limit_files(peer, (int(injection.amount), hard))
        # No other injection may hit this peer meanwhile: a child that it then starts would keep the limit for ever.
        self._exclude(peer, injection.for_s, lambda: _limit_files(peer, (soft, hard)))

    async def _poison(self, injection: Injection, peer: PeerProcess) -> None:
        """Offer corrupted weights from this process, which is no member of the job."""
        self._note(injection, peer.name)
        if (record := await self._supervisor.record_of(peer.name)) is not None:
            self._task(self._poisoned(record.address, injection))

    async def _poisoned(self, address: str, injection: Injection) -> None:
        transport = GrpcTransport(
            folder_of_sockets(self._supervisor.endpoints), security=self._supervisor.security
        )
        try:
            rng = random.Random(f"{self._scenario.seed}: poison {injection.number}")
            await Stranger(transport, self._supervisor.job, rng).offer_for(address, injection.for_s)
        finally:
            await transport.close()

    def _inject_on_link(self, injection: Injection, peer: PeerProcess) -> None:
        self._note(injection, peer.name)
        end = self._network.inject(injection.act, injection.amount, peer.name, peer.pid)
        if injection.act in ISOLATING:
            self._exclude(peer, injection.for_s, end)
        elif injection.act not in INSTANT:
            self._later(injection.for_s, end)

    def _exclude(self, peer: PeerProcess, seconds: float, end: Callable[[], None]) -> None:
        def over() -> None:
            self._targeting.excluded.discard(peer.name)
            end()

        self._targeting.excluded.add(peer.name)
        self._later(seconds, over)

    def _note(self, injection: Injection, peer: str, phase: Phase | None = None) -> None:
        whole = injection.what in {"agent", "all"}
        fault = (
            _NAMES.get(injection.act, injection.act.value)
            if whole
            else f"{injection.act.value}-{injection.what}"
        )
        at = {"phase": phase.value} if phase is not None else {}
        self._observer.saw(
            "fault", fault=fault, peer=peer, what=injection.what, number=injection.number, **at
        )
        whom = "etcd" if not peer else peer if injection.what == "all" else f"{injection.what} of {peer}"
        words = f", {phase}" if phase is not None else ""
        self._say(
            f"{injection.number + 1}/{self._scenario.injections} {injection.description}: {whom}{words}"
        )

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            what()

        self._task(wait())

    def _task(self, work: Any) -> None:
        self._lasting.begin(work, "an injection that lasts")

    def _failed(self, name: str, error: BaseException) -> None:
        """Keep the error of an injection that failed: ``settle`` raises it, and the run fails."""
        del name
        self._failure = self._failure or error


def _limit_files(peer: PeerProcess, limits: tuple[int, int]) -> None:
    with contextlib.suppress(ProcessLookupError):  # the process has ended meanwhile
        resource.prlimit(peer.pid, resource.RLIMIT_FSIZE, limits)
