"""The supervisor of a local cluster: it runs etcd and the peers, and accepts commands on a socket."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from gossip_caffe.checkpoint.ending import read_end
from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.own_etcd import own_etcd
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.cluster.fleet.fleet import Fleet, PeerProcess
from gossip_caffe.cluster.fleet.fleet_from_options import fleet_of
from gossip_caffe.cluster.fleet.plan import scaling
from gossip_caffe.cluster.fleet.signalling import running_peer, send_signal
from gossip_caffe.cluster.state.options import ClusterOptions
from gossip_caffe.cluster.state.sockets import remove_sockets
from gossip_caffe.cluster.supervision.commands import answer
from gossip_caffe.cluster.supervision.control import serve
from gossip_caffe.cluster.supervision.job_opening import old_leases_end, open_job, others_leave
from gossip_caffe.cluster.supervision.job_status import job_status, peer_rows, record_of
from gossip_caffe.cluster.supervision.living_weights import LivingWeights
from gossip_caffe.cluster.supervision.result import end_of_unfinished, model_of, none_left
from gossip_caffe.cluster.supervision.trouble_handler import TroubleHandler
from gossip_caffe.errors import (
    Conflict,
    EnvironmentProblem,
    ExitCode,
    NotFound,
    StoreUnavailable,
    UsageError,
)
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.jobs import load_job
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.peer.joining.resuming import go_back_to
from gossip_caffe.security.security import Security

AFTER_GRACE_S = 2.0
"""A peer ends by itself when its --grace is over: so much later the supervisor kills it."""
STEPS_OF_A_LEAVER = 2.0
"""A peer that leaves first ends its step: the supervisor waits this many step times longer."""
LOOK_EVERY_S = 0.5


class Supervisor:
    """Brings a cluster up, keeps it running, and takes it down. ``say`` is called with one line for each event.

    ``checkpoint``: the last checkpoint of the finished job; "" before. ``gave_up``: the reason why the job cannot be
    finished; "" otherwise. ``before_down``: called before the peers are asked to leave. ``step_s``: the seconds of a
    peer's iteration; 0: unknown.
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
        self.step_s = 0.0
        self.gave_up = ""
        self.before_down: Callable[[], Awaitable[None]] | None = None
        self.trouble_handler = TroubleHandler(options.job, say)
        self.fleet: Fleet
        self.endpoints: tuple[str, ...] = options.etcd

    @property
    def going_down(self) -> bool:
        """True if ``go_down`` was called."""
        return self._down.is_set()

    @property
    def security(self) -> Security:
        """The identity of this cluster's peers."""
        return self._options.security

    @property
    def down_reason(self) -> str:
        """The reason of the first ``go_down``; "" before."""
        return self._down_reason

    async def run(self, on_look: Callable[[dict[str, Any]], None] = lambda _: None) -> ExitCode:
        """Run until the job is finished, no peer is left, or ``go_down`` is called. All processes have ended then.

        ``on_look`` is called with the cluster's status twice a second. Returns the exit code: OK when the job is
        finished, else that of ``end_of_unfinished``. Raises GossipCaffeError when no peer is left and the job is not
        finished.
        """
        with self._state.lock():
            server: asyncio.Server | None = None
            try:
                await self._start()
                server = await serve(self._state.socket, partial(answer, self))
                await self._start_peers()
                return await self._watch(on_look)
            finally:
                if server is not None:
                    server.close()
                try:
                    self._state.socket.unlink(missing_ok=True)
                    if self.before_down is not None and self._down.is_set():
                        await self.before_down()
                finally:
                    await self._stop()

    async def _start(self) -> None:
        if not self.endpoints:
            options = self._options
            self._etcd = own_etcd(self._state, options.etcd_host, options.etcd_port, options.security)
            self._etcd.start()
            self.endpoints = (self._etcd.endpoint,)
            self._say(f"etcd listens on {self._etcd.endpoint}")
        self._store = EtcdStore(
            self.endpoints, SystemClock(), random.Random(os.getpid()), security=self._options.security
        )
        try:
            if self._options.spec is not None:
                line = await open_job(self._store, self._options.spec, ours_alone=self._etcd is not None)
                self._say(line)
            await load_job(self._store, self._options.job)
        except StoreUnavailable:
            if self._etcd is not None and self._etcd.died:
                raise self._etcd.problem() from None
            raise
        self.fleet = fleet_of(
            self._options,
            ",".join(self.endpoints),
            self.trouble_handler.hear,
            listens_for_others=self._etcd is None or bool(self._options.etcd_host),
        )
        self.fleet.on_end.append(self._peer_ended)

    async def _start_peers(self) -> None:
        """Start all peers. A ``scale`` that arrives meanwhile is carried out afterwards."""
        async with self._scaling:
            if self._options.from_checkpoint:
                await self._go_back()
            spec = await load_job(self._store, self._options.job)
            end = await read_end(self._store, JobKeys(spec.name), spec)
            if end is not None and end.believed:
                self._say("the job is finished already; to train it again, give it a new name with --job")
                return
            await self._old_leases_end()
            if self._down.is_set():
                return
            for _ in range(self._options.peers):
                self.fleet.start()
        if self._options.started is not None:
            self._options.started(self.fleet.arguments)
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
        how = peer.how if peer.code == ExitCode.LEFT else f"ended ({peer.how})"
        self._say(f"{peer.name} {how}" + (f": {cause}" if cause else ""))
        killed = peer.code is not None and peer.code < 0 and not peer.stopping
        if killed and self._options.restart and not self._down.is_set():
            try:
                self._say(f"{self.fleet.start().name} replaces it")
            except (
                EnvironmentProblem
            ) as error:  # a callback of the event loop has no caller that could handle the error
                self._say(f"no peer replaces it: {error}")

    async def _watch(self, on_look: Callable[[dict[str, Any]], None]) -> ExitCode:
        while not self._down.is_set():
            if self._etcd is not None:
                self.trouble_handler.keep(self._etcd)
                self.trouble_handler.defragment(self._etcd, self._store)
            status = await self.status()
            self.trouble_handler.note_away(status["etcd_away"])
            if not status["etcd_away"]:
                self.trouble_handler.note_refusal(status["etcd_refuses"])
            on_look(status)
            if status["finished"] is not None:
                self.checkpoint = status["finished"]["checkpoint"]
            if not self.fleet.running and self._wanted > 0:
                return await self._end(on_look)
            if (why := self.trouble_handler.look(status)) and self._options.gives_up:
                self.gave_up = why
                self.go_down("the job cannot be finished")
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._down.wait()
            except TimeoutError:
                continue
        self._say(f"going down: {self._down_reason}")
        return ExitCode.OK if self.checkpoint else end_of_unfinished(self._down_reason)

    @property
    def job(self) -> str:
        """The name of the job."""
        return self._options.job

    async def record_of(self, peer: str) -> PeerRecord | None:
        """Return a peer's record in etcd; None: it is not registered, or etcd does not answer."""
        return await record_of(self._store, JobKeys(self._options.job), peer)

    async def _end(self, on_look: Callable[[dict[str, Any]], None]) -> ExitCode:
        """Handle the end of the last peer: set ``checkpoint``, or raise the error of the first peer that failed."""
        status = await self.status()
        on_look(status)
        if status["finished"] is not None:
            self.checkpoint = status["finished"]["checkpoint"]
        if self.checkpoint:
            return ExitCode.OK
        raise none_left(self.fleet, self._options.job, self._state.folder / "logs")

    async def living_weights(self) -> LivingWeights | None:
        """Fetch the mean weights of this machine's peers that have trained; None when no such peer answers."""
        if not hasattr(self, "fleet"):
            return None
        from gossip_caffe.gossip.transport.grpc_transport import GrpcTransport  # noqa: PLC0415 - see living_weights.py

        transport = GrpcTransport(self._store.sockets, security=self._options.security)
        try:
            return await self.trouble_handler.living_weights(self.fleet, transport)
        finally:
            await transport.close()

    @property
    def model(self) -> str:
        """The path of the finished job's model; the checkpoint's name if only other machines have it."""
        return model_of(self._state.run, self.checkpoint)

    def ask_for_snapshot(self) -> None:
        """Ask the peers for a snapshot now; they go on training."""
        if hasattr(self, "fleet"):
            self.fleet.ask_for_snapshot()

    def go_down(self, reason: str) -> None:
        """Take the cluster down; ``run`` returns when all processes have ended. A second call kills the peers."""
        if self._down.is_set() and hasattr(self, "fleet"):
            self.fleet.signal([peer.pid for peer in self.fleet.running], signal.SIGKILL)
            return
        self._down_reason = reason
        self._down.set()

    @property
    def leave_s(self) -> float:
        """The seconds after which a peer that was asked to leave is killed."""
        return self._options.grace_s + AFTER_GRACE_S

    async def _stop(self) -> None:
        if hasattr(self, "fleet"):
            await self.fleet.stop(self.fleet.running, self.leave_s + self.step_s * STEPS_OF_A_LEAVER)
            if self._options.started is not None and self._etcd is not None:
                await others_leave(
                    self._store, self._options.job, self.leave_s
                )  # for which they need this etcd
        await self.trouble_handler.close()
        if hasattr(self, "_store"):
            await self._store.close()
        if self._etcd is not None:
            self._etcd.stop()
        remove_sockets(self._state.sockets)

    # ── commands ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def status(self) -> dict[str, Any]:
        """Return the cluster's status as a JSON object."""
        found = await job_status(self._store, JobKeys(self._options.job))
        return {
            "cluster": self._state.name,
            "job": self._options.job,
            "etcd": ",".join(self.endpoints),
            "etcd_pid": self._etcd.pid if self._etcd else 0,
            "etcd_away": found.away,
            "etcd_refuses": found.refuses,
            "pid": os.getpid(),
            "leave_s": self.leave_s,
            "seconds": time.monotonic() - self._began,
            "run_dir": str(self._state.run),
            "finished": found.finished,
            "tested": found.tested,
            "troubles": self.trouble_handler.rows(),
            "peers": peer_rows(self.fleet, found.statuses),
        }

    async def address_of(self, peer: str) -> str | None:
        """Return a peer's address from its record in etcd; None: it has no record, or etcd does not answer."""
        record = await self.record_of(peer)
        return None if record is None else record.address

    async def scale(self, wanted: int) -> dict[str, Any]:
        """Start or stop peers until ``wanted`` peers run. Raises UsageError, or Conflict when the cluster goes down."""
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
            await self.fleet.stop([self.fleet.peers[name] for name in decision.stop], self.leave_s)
        for name in (*started, *decision.stop):
            self._say(f"{name} {'starts' if name in started else 'has left'}: {decision.reason}")
        return {"started": started, "stopped": list(decision.stop), "reason": decision.reason}

    async def stop(self, name: str) -> dict[str, Any]:
        """Let one peer leave in good order. Raises NotFound when it does not run."""
        async with self._scaling:
            peer = running_peer(self.fleet, name)
            self._wanted = len(self.fleet.running) - 1
            await self.fleet.stop([peer], self.leave_s)
        return {"peer": peer.name, "end": peer.how}

    async def kill(self, name: str, what: str, number: str) -> dict[str, Any]:
        """Send a signal to a peer's agent, solver or loader, or to all three. Raises UsageError or NotFound."""
        sent = send_signal(self.fleet, name, what, number)
        self._say(f"{sent.signal} sent to {'all processes' if what == 'all' else f'the {what}'} of {name}")
        return {"peer": name, "what": what, "signal": sent.signal, "pids": sent.pids}

    def kill_etcd(self) -> None:
        """Kill this cluster's own etcd, as a crash would. Raises NotFound when the cluster has none."""
        if self._etcd is None:
            raise NotFound("this cluster has no etcd of its own", remedy="leave --etcd out")
        self._etcd.kill()
        self._say("SIGKILL sent to etcd")

    def start_etcd(self) -> None:
        """Restart this cluster's own etcd, with its data and on its port."""
        if self._etcd is not None and not self._etcd.pid:
            self._etcd.start()
            self._say("etcd is back")
