"""The supervisor of a local cluster: its etcd, its peers, and the socket on which it takes commands."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gossip_caffe.checkpoint.manifest import MODEL
from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.control import serve
from gossip_caffe.cluster.etcd_server import EtcdServer
from gossip_caffe.cluster.fleet import Fleet, PeerProcess
from gossip_caffe.cluster.job_status import job_status, peer_rows
from gossip_caffe.cluster.opening import old_leases_end, open_job
from gossip_caffe.cluster.plan import scaling
from gossip_caffe.cluster.ports import LOOPBACK
from gossip_caffe.cluster.state import ClusterState
from gossip_caffe.errors import Conflict, ExitCode, GossipCaffeError, NotFound, UsageError
from gossip_caffe.job.spec import JobSpec
from gossip_caffe.membership.etcd_store import EtcdStore
from gossip_caffe.membership.jobs import load_job
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.peer.resuming import go_back_to

LEAVE_DEADLINE_S = 12.0
LOOK_EVERY_S = 0.5
PARTS = ("agent", "solver", "loader", "all")
SIGNALS = ("KILL", "TERM", "STOP", "CONT")


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """What a cluster is started with. ``spec`` is a job to create, None to train ``job``, which exists.

    ``etcd`` empty: an etcd of its own. ``restart``: another peer takes the place of one that is killed.
    ``of_peers``: more words for each ``peer start``; ``words_of``: still more, by the peer's name and the address of
    etcd; ``before``: what comes before its command. ``etcd_host``: where an etcd of its own listens.
    ``from_checkpoint``: the job goes back to that one first. ``cards``: one for each peer that trains on one.
    """

    state: ClusterState
    peers: int
    job: str
    spec: JobSpec | None = None
    etcd: tuple[str, ...] = ()
    engine: str = "pycaffe"
    restart: bool = False
    of_peers: tuple[str, ...] = ()
    from_checkpoint: str = ""
    words_of: Callable[[str, str], tuple[str, ...]] = lambda _name, _etcd: ()
    cards: tuple[int, ...] = ()
    before: Callable[[str], tuple[str, ...]] = lambda _: ()
    etcd_host: str = LOOPBACK


class Supervisor:
    """Brings a cluster up, keeps it, and takes it down. ``say`` gets one line for whatever happens.

    ``checkpoint``: the last one of a job that is finished, "" before.
    """

    def __init__(self, options: ClusterOptions, say: Callable[[str], None]) -> None:
        self._options = options
        self._state = options.state
        self._say = say
        self._down = asyncio.Event()
        self._down_reason = ""
        self._wanted = options.peers
        self._scaling = asyncio.Lock()
        self._etcd: EtcdServer | None = None
        self._store: EtcdStore
        self._began = time.monotonic()
        self.checkpoint = ""
        self.fleet: Fleet
        self.endpoints: tuple[str, ...] = options.etcd

    async def run(self, on_look: Callable[[dict[str, Any]], None] = lambda _: None) -> ExitCode:
        """Run until the job is finished, no peer is left, or it is asked to go down; everything is gone then.

        ``on_look`` gets the cluster's status twice a second.
        """
        with self._state.lock():
            server: asyncio.Server | None = None
            try:
                await self._start()
                server = await serve(self._state.socket, self._answer)
                await self._start_peers()
                return await self._watch(on_look)
            finally:
                if server is not None:
                    server.close()
                self._state.socket.unlink(missing_ok=True)
                await self._stop()

    async def _start(self) -> None:
        if not self.endpoints:
            self._etcd = EtcdServer(self._state.etcd, host=self._options.etcd_host)
            self._etcd.start()
            self.endpoints = (self._etcd.endpoint,)
            self._say(f"etcd listens on {self._etcd.endpoint}")
        self._store = EtcdStore(self.endpoints, SystemClock(), random.Random(os.getpid()))
        if self._options.spec is not None:
            line = await open_job(self._store, self._options.spec, ours_alone=self._etcd is not None)
            self._say(line)
        await load_job(self._store, self._options.job)
        # Peers of several machines may meet in an etcd that is not our own.
        prefix = f"{_as_name(socket.gethostname())}-p" if self._options.etcd else "p"
        endpoint = ",".join(self.endpoints)
        self.fleet = Fleet(
            self._state,
            endpoint,
            self._options.job,
            self._options.engine,
            prefix,
            self._options.of_peers,
            lambda name: self._options.words_of(name, endpoint),
            self._options.cards,
            self._options.before,
        )
        self.fleet.on_end.append(self._peer_ended)

    async def _start_peers(self) -> None:
        """Start them all; who scales meanwhile is answered afterwards, and finds them."""
        async with self._scaling:
            if self._options.from_checkpoint:
                await self._go_back()
            finished = await self._store.get(JobKeys(self._options.job).finished)
            if finished is not None:
                self._say("nothing is left to train; to train it again, give the job a new name with --job")
                return
            await self._old_leases_end()
            if self._down.is_set():
                return
            for _ in range(self._options.peers):
                self.fleet.start()
        self._say("1 peer starts" if self._options.peers == 1 else f"{self._options.peers} peers start")

    async def _old_leases_end(self) -> None:
        names = [self.fleet.name(number) for number in range(self._options.peers)]
        await old_leases_end(self._store, self._options.job, names, self._say, self._down)

    async def _go_back(self) -> None:
        await self._old_leases_end()
        back_to = await go_back_to(
            self._store, SystemClock(), self._options.job, self._options.from_checkpoint, os.getpid()
        )
        self._say(f"job {self._options.job} goes back to checkpoint {back_to.checkpoint}")

    def _peer_ended(self, peer: PeerProcess) -> None:
        cause = self.fleet.cause(peer)
        self._say(f"{peer.name} ended ({peer.how})" + (f": {cause}" if cause else ""))
        killed = peer.code is not None and peer.code < 0 and not peer.stopping
        if killed and self._options.restart and not self._down.is_set():
            self._say(f"{self.fleet.start().name} takes its place")

    async def _watch(self, on_look: Callable[[dict[str, Any]], None]) -> ExitCode:
        while not self._down.is_set():
            status = await self.status()
            on_look(status)
            if not self.fleet.running and self._wanted > 0:
                return await self._end(on_look)
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._down.wait()
            except TimeoutError:
                continue
        self._say(f"going down: {self._down_reason}")
        return ExitCode.OK

    async def _end(self, on_look: Callable[[dict[str, Any]], None]) -> ExitCode:
        """No peer is left: the job is finished, or the first peer that failed says why not."""
        status = await self.status()
        on_look(status)
        if status["finished"] is not None:
            self.checkpoint = status["finished"]["checkpoint"]
            return ExitCode.OK
        failed = [peer for peer in self.fleet.peers.values() if peer.code and peer.code > 0]
        words = self.fleet.cause(failed[0]) if failed else "all were ended"
        error = GossipCaffeError(
            f"no peer of job {self._options.job!r} is left: {words}", remedy=f"see {self._state.folder}/logs"
        )
        if failed and failed[0].code in {int(code) for code in ExitCode}:
            error.exit_code = ExitCode(failed[0].code)
        raise error

    @property
    def model(self) -> str:
        """Where the model of a finished job is; the checkpoint's name when peers elsewhere hold it."""
        held = sorted((self._state.run / "checkpoints").glob(f"*/{self.checkpoint}/{MODEL}"))
        return str(held[0]) if held else f"checkpoint {self.checkpoint}"

    def go_down(self, reason: str) -> None:
        """Take the cluster down; ``run`` returns when everything is gone. Asked twice, it kills what has not left."""
        if self._down.is_set() and hasattr(self, "fleet"):
            self.fleet.signal([peer.pid for peer in self.fleet.running], signal.SIGKILL)
            return
        self._down_reason = reason
        self._down.set()

    async def _stop(self) -> None:
        if hasattr(self, "fleet"):
            await self.fleet.stop(self.fleet.running, LEAVE_DEADLINE_S)
        if hasattr(self, "_store"):
            await self._store.close()
        if self._etcd is not None:
            self._etcd.stop()

    # ── commands ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request.get("do"):
            case "status":
                return await self.status()
            case "scale":
                return await self.scale(int(request["peers"]))
            case "kill":
                return await self.kill(request["peer"], request["what"], request["signal"])
            case "stop":
                return await self.stop(str(request["peer"]))
            case "down":
                self.go_down("asked by 'cluster down'")
                return {"pid": os.getpid()}
            case other:
                raise UsageError(
                    f"the supervisor does not know {other!r}", remedy="is it of another version?"
                )

    async def status(self) -> dict[str, Any]:
        """Everything that there is to see, as JSON takes it."""
        found = await job_status(self._store, JobKeys(self._options.job))
        return {
            "cluster": self._state.name,
            "job": self._options.job,
            "etcd": ",".join(self.endpoints),
            "etcd_pid": self._etcd.pid if self._etcd else 0,
            "etcd_away": found.away,
            "pid": os.getpid(),
            "seconds": time.monotonic() - self._began,
            "run_dir": str(self._state.run),
            "finished": found.finished,
            "tested": found.tested,
            "peers": peer_rows(self.fleet, found.statuses),
        }

    async def scale(self, wanted: int) -> dict[str, Any]:
        """Start or stop peers until ``wanted`` of them run."""
        if wanted < 0:
            raise UsageError(f"cannot scale to {wanted} peers", remedy="give 0 or more")
        async with self._scaling:
            if self._down.is_set():
                raise Conflict(
                    f"cluster {self._state.name!r} is going down ({self._down_reason})",
                    remedy="bring it up again with 'gossip-caffe cluster up'",
                )
            self._wanted = wanted
            decision = scaling([peer.name for peer in self.fleet.running], wanted)
            started = [self.fleet.start().name for _ in range(decision.start)]
            await self.fleet.stop([self.fleet.peers[name] for name in decision.stop], LEAVE_DEADLINE_S)
        for name in (*started, *decision.stop):
            self._say(f"{name} {'starts' if name in started else 'has left'}: {decision.reason}")
        return {"started": started, "stopped": list(decision.stop), "reason": decision.reason}

    async def stop(self, name: str) -> dict[str, Any]:
        """Let one peer leave in good order."""
        async with self._scaling:
            peer = self._peer(name)
            self._wanted = len(self.fleet.running) - 1
            await self.fleet.stop([peer], LEAVE_DEADLINE_S)
        return {"peer": peer.name, "end": peer.how}

    async def kill(self, name: str, what: str, number: str) -> dict[str, Any]:
        """Send a signal to a peer's agent, solver, loader or to all three."""
        peer = self._peer(name)
        if what not in PARTS:
            raise UsageError(f"a peer has no {what!r}", remedy=f"give one of {', '.join(PARTS)}")
        if number not in SIGNALS:
            raise UsageError(
                f"{number!r} is no signal for a peer", remedy=f"give one of {', '.join(SIGNALS)}"
            )
        chosen = signal.Signals[f"SIG{number}"]
        parts = self.fleet.parts(peer)
        pids = [pid for part, pid in parts.items() if what in {part, "all"}]
        if not pids:
            raise NotFound(f"{name} has no {what} now", remedy="try again in a moment")
        self.fleet.signal(pids, chosen)
        self._say(f"{chosen.name} sent to the {'whole of' if what == 'all' else f'{what} of'} {name}")
        return {"peer": name, "what": what, "signal": chosen.name, "pids": pids}

    def kill_etcd(self) -> None:
        """End this cluster's own etcd as a crash would. Raises NotFound when it has none."""
        if self._etcd is None:
            raise NotFound("this cluster has no etcd of its own", remedy="leave --etcd out")
        self._etcd.kill()
        self._say("SIGKILL sent to etcd")

    def start_etcd(self) -> None:
        """Start it again, with its data and on its port."""
        if self._etcd is not None and not self._etcd.pid:
            self._etcd.start()
            self._say("etcd is back")

    def _peer(self, name: str) -> PeerProcess:
        peer = self.fleet.peers.get(name)
        if peer is None or not peer.running:
            known = ", ".join(peer.name for peer in self.fleet.running) or "none"
            raise NotFound(
                f"no peer {name!r} runs in this cluster (running: {known})", remedy="name one of those"
            )
        return peer


def _as_name(text: str) -> str:
    """``text`` with everything left out that the name of a peer cannot have."""
    return re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")[:40] or "host"
