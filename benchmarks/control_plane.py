"""What the control plane costs: agents without a solver on one real etcd, many against few.

    python benchmarks/control_plane.py [--agents 100,1000] [--seconds 30] [--chunk-seconds 4] [--processes 2]

The agents are the product's own membership, lease, fence, plan, choice, claims and ledger over its own etcd client, a
connection each; training a chunk is a pause. All join at once, work for a while, and a tenth leaves at once.
docs/internals/benchmarks.md says what each figure means.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gossip_caffe.checkpoint.announce import announced
from gossip_caffe.checkpoint.duty import take
from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.errors import GossipCaffeError, StoreError
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.fence import FencedWriter
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import MembersView, PeerRecord, Registration
from gossip_caffe.membership.session import LeaseSession
from gossip_caffe.observe.log.events import MemoryLog
from gossip_caffe.observe.log.status import PeerStatus
from gossip_caffe.peer.reporting import Reporting
from gossip_caffe.peer.work.claiming import SETTLE_EVERY_S
from gossip_caffe.peer.work.claims import Claims
from gossip_caffe.peer.work.progress import look_after_s
from gossip_caffe.peer.work.throughput import claims_wanted
from gossip_caffe.shards.choice import Chooser
from gossip_caffe.shards.epochs import ChunkId, Epochs
from gossip_caffe.shards.ledger import Ledger
from gossip_caffe.shards.plan import owners

KEYS = JobKeys("control-plane")
CHUNKS_PER_AGENT = 4
LEASE_TTL_S = 30.0
"""Longer than a peer's: hundreds of agents share a process here, and must not lose their leases for that."""
JOINS_AT_ONCE = 32
SEEN_DEADLINE_S = 300.0
EARLIER = "0.27 revisions and 976 bytes"
"""Of a trained chunk, as `--agents 3 --chunk-seconds 0.02` counted it before etcd was to stay small (docs/etcd.md)."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CLOCK = SystemClock()


_PLANS: dict[int, dict[str, list[int]]] = {}


def plan(names: Sequence[str], chunks: int) -> dict[str, list[int]]:
    """Member → chunks: what each peer has a machine for is worked out here once for views that differ by few members.

    Peers whose views differ plan differently for a moment, too; the ledger decides.
    """
    key = len(names) // 50
    if key not in _PLANS or chunks != sum(map(len, _PLANS[key].values())):
        owner = owners([1.0] * len(names), names, chunks, 1)
        _PLANS[key] = {name: np.flatnonzero(owner == index).tolist() for index, name in enumerate(names)}
    return _PLANS[key]


# ── one agent ─────────────────────────────────────────────────────────────────────────────────────


class Agent:
    """A peer without a solver and without exchanges."""

    def __init__(self, name: str, endpoint: str, agents: int, chunk_s: float, latencies: list[float]) -> None:
        self.name = name
        self.rng = random.Random(name)
        self.store = EtcdStore([endpoint], CLOCK, self.rng)
        self.view = MembersView(self.store, KEYS)
        self.trained = self.leases_lost = 0
        self._latencies = latencies
        self._chunk_s = chunk_s
        chunks = CHUNKS_PER_AGENT * agents
        self._epochs = Epochs(records=chunks, chunk_records=1, budget_samples=chunks * 1000, seed=1)
        self._queue: list[ChunkId] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self) -> None:
        """Register and become known to all, as a peer does."""
        await self._register("joining")
        self.view.listen(self._changed)
        self._spawn(self.view.follow())
        await self.view.known.wait()
        await self.publish(state="syncing", fingerprint="0" * 64)
        await self.publish(state="training")
        self._spawn(self._keep_registered())

    async def _register(self, state: str) -> None:
        session = LeaseSession(self.store, CLOCK, LEASE_TTL_S)
        await session.start()
        try:
            writer = FencedWriter(self.store, session, KEYS.fence(self.name), CLOCK)
            await writer.open()
            ledger = Ledger(self.store, writer, KEYS, self._epochs, self.name)
            await ledger.refresh()
            record = PeerRecord(self.name, "", "127.0.0.1:1", "host", 1, state)
            registration = Registration(writer, session, KEYS, record)
            await registration.publish(version=f"{time.monotonic():.6f}")
        except BaseException:
            await session.close()
            raise
        self.session, self.writer, self.ledger, self.registration = session, writer, ledger, registration

    async def _keep_registered(self) -> None:
        while True:
            await self.session.lost.wait()
            self.leases_lost += 1
            while self.session.lost.is_set():
                try:
                    await self._register("training")
                    if hasattr(self, "claims"):
                        await self.claims.renew_ownership(self.ledger, self.session.id)
                except StoreError:
                    await asyncio.sleep(0.5)

    async def publish(self, **changes: object) -> None:
        await self.registration.publish(version=f"{time.monotonic():.6f}", **changes)

    def work(self) -> None:
        """Claim, train, settle, look and report from now on."""
        self.chooser = Chooser(self._epochs, self._shard, self.rng, self._living)
        self.claims = Claims(
            ledger=self.ledger,
            lease=self.session.id,
            epochs=self._epochs,
            chooser=self.chooser,
            feed=lambda chunk, _start, _stop: self._queue.append(chunk),
            withdraw=lambda _chunks: None,
            clock=CLOCK,
            log=MemoryLog(),
        )
        reporting = Reporting(
            status=lambda: PeerStatus(self.name, "training", chunks_done=self.trained),
            stepping_s=lambda: 0.0,
            key=KEYS.status(self.name),
            session=lambda: self.session,
            store=self.store,
            clock=CLOCK,
            log=MemoryLog(),
            say=lambda _: None,
            living=self._living,
        )
        for each in (self._train(), self._claim(), self._progress(), self._checkpoints(), reporting.run()):
            self._spawn(each)

    async def leave(self) -> None:
        """Go, with everything that hangs on the lease."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.session.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except Exception as error:  # an agent without one of its tasks would be measured as a cheap one
                sys.exit(f"{self.name}: {error!r}")

        self._tasks.append(asyncio.create_task(guarded()))

    def _living(self) -> int:
        return len(self.view.members)

    def _shard(self) -> Sequence[int]:
        return plan(sorted({*self.view.members, self.name}), self._epochs.chunks).get(self.name, [])

    def _changed(self, was: PeerRecord | None, now: PeerRecord | None) -> None:
        if now is not None and now.version:
            self._latencies.append(time.monotonic() - float(now.version))
        if hasattr(self, "chooser") and (was is None or now is None):
            self.chooser.members_changed(CLOCK.monotonic())

    async def _train(self) -> None:
        while True:
            await asyncio.sleep(self._chunk_s * self.rng.uniform(0.8, 1.2))
            if self._queue:
                self.trained += 1
                self.claims.shared([self._queue.pop(0)], f"{self.name}-{self.trained:012x}")

    async def _claim(self) -> None:
        while True:
            pause_s = SETTLE_EVERY_S
            try:
                await self.claims.settle()
                want = claims_wanted(
                    queued_records=len(self._queue),
                    batch_records=1,
                    chunk_records=1,
                    prefetch_batches=2,
                    records_per_s=1 / self._chunk_s,
                )
                if want:
                    pause_s = (await self.claims.claim(want)).rest_s
            except StoreError:
                pass
            await asyncio.sleep(pause_s)

    async def _progress(self) -> None:
        while True:
            try:
                await self.ledger.done_samples()
                if min(self.view.members, default="") == self.name:
                    await self.ledger.fold()
            except StoreError:
                pass
            await asyncio.sleep(look_after_s(self._living()))

    async def _checkpoints(self) -> None:
        while True:
            living = self._living()
            try:
                await self.store.get(KEYS.finished)
                await announced(self.store, KEYS)
                if (await take(self.store, self.writer, KEYS, self.name, self.session.id)).ours:
                    living = 1
            except StoreError:
                pass
            await asyncio.sleep(look_after_s(living))


# ── a process of agents ───────────────────────────────────────────────────────────────────────────


async def seen(agents: Sequence[Agent], number: int) -> bool:
    """Wait until all of them know that ``number`` agents train, and no others are there; False when it is too long."""
    give_up_at = time.monotonic() + SEEN_DEADLINE_S
    while any(
        len(agent.view.members) != number or len(agent.view.in_state("training")) != number
        for agent in agents
    ):
        await asyncio.sleep(0.2)
        if time.monotonic() > give_up_at:
            return False
    return True


async def host(endpoint: str, first: int, count: int, agents: int, chunk_s: float) -> None:
    """Do what each line of stdin says, and answer it with a line of JSON."""
    latencies: list[float] = []
    loop = asyncio.get_running_loop()
    hosted = [Agent(f"a{first + n:05d}", endpoint, agents, chunk_s, latencies) for n in range(count)]
    gate = asyncio.Semaphore(JOINS_AT_ONCE)

    async def join(agent: Agent) -> None:
        async with gate:
            await agent.join()

    async def probe() -> None:
        while True:
            await asyncio.sleep(1.0)
            await hosted[0].publish()

    in_time = True
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        command, _, number = line.partition(" ")
        if command == "join":
            await asyncio.gather(*map(join, hosted))
        elif command == "seen":  # every view has so many agents that train
            in_time = await seen(hosted, int(number))
        elif command == "work":
            for agent in hosted:
                agent.work()
        elif command == "probe":
            probing = asyncio.create_task(probe())
            await asyncio.sleep(float(number))
            probing.cancel()
        elif command == "trained":  # every agent has trained something, so the storm is behind all of them
            while any(not agent.trained for agent in hosted):
                await asyncio.sleep(0.05)
        elif command == "pause":
            await asyncio.sleep(float(number))
        elif command == "leave":
            leaving = [hosted.pop() for _ in range(int(number))]
            await asyncio.gather(*(agent.leave() for agent in leaving))
        report = {
            "latencies": [round(entry, 5) for entry in latencies],
            "in_time": in_time,
            "trained": sum(agent.trained for agent in hosted),
            "leases_lost": sum(agent.leases_lost for agent in hosted),
        }
        latencies.clear()
        print(json.dumps(report), flush=True)


Reply = dict[str, Any]


class Hosts:
    """All processes of agents."""

    def __init__(self, endpoint: str, agents: int, processes: int, chunk_s: float) -> None:
        self.counts = [agents // processes + (n < agents % processes) for n in range(processes)]
        self._processes = []
        for n, count in enumerate(self.counts):
            arguments = [endpoint, str(sum(self.counts[:n])), str(count), str(agents), str(chunk_s)]
            command = [sys.executable, __file__, "--host", *arguments]
            self._processes.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )

    def ask(self, commands: Sequence[str]) -> list[Reply]:
        """Give each process its command; returns when all have done it."""
        for process, command in zip(self._processes, commands, strict=True):
            if process.stdin is not None:
                process.stdin.write(f"{command}\n")
                process.stdin.flush()
        replies = []
        for process in self._processes:
            line = process.stdout.readline() if process.stdout is not None else ""
            if not line:
                raise SystemExit("a process of agents has ended; see its message above")
            replies.append(json.loads(line))
        return replies

    def all(self, command: str) -> list[Reply]:
        return self.ask([command] * len(self.counts))

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


# ── what is measured ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Mark:
    """etcd's counters at one moment."""

    at: float
    cpu_s: float
    transactions: float
    requests: float
    bytes: float
    revisions: float
    asked_bytes: float

    @classmethod
    def now(cls, server: EtcdServer) -> Mark:
        fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
        with urllib.request.urlopen(f"http://{server.endpoint}/metrics", timeout=30) as reply:
            lines = reply.read().decode().splitlines()

        def total(name: str, having: str = "") -> float:
            return sum(
                float(line.rpartition(" ")[2]) for line in lines if line.startswith(name) and having in line
            )

        return cls(
            time.monotonic(),
            (int(fields[11]) + int(fields[12])) / TICKS_PER_S,
            total("grpc_server_handled_total", 'grpc_method="Txn"'),
            total("grpc_server_msg_received_total"),
            total("etcd_network_client_grpc_received_bytes_total")
            + total("etcd_network_client_grpc_sent_bytes_total"),
            total("etcd_debugging_mvcc_current_revision"),
            total("etcd_network_client_grpc_received_bytes_total"),
        )


def percentiles(replies: list[Reply]) -> tuple[float, float]:
    latencies = [entry for reply in replies for entry in reply["latencies"]]
    if not latencies:
        return 0.0, 0.0
    return float(np.quantile(latencies, 0.5)), float(np.quantile(latencies, 0.99))


HEADINGS = (
    "agents",
    "phase",
    "seconds",
    "etcd CPU s",
    "txn/s",
    "requests/s",
    "kB/agent/s",
    "p50 ms",
    "p99 ms",
)


def row(agents: int, phase: str, before: Mark, after: Mark, latency: tuple[float, float]) -> str:
    took = after.at - before.at
    return (
        f"{agents:>10} {phase:>10} {took:>10.1f} {after.cpu_s - before.cpu_s:>10.2f}"
        f" {(after.transactions - before.transactions) / took:>10.0f}"
        f" {(after.requests - before.requests) / took:>10.0f}"
        f" {(after.bytes - before.bytes) / took / agents / 1000:>10.2f}"
        f" {1000 * latency[0]:>10.1f} {1000 * latency[1]:>10.1f}"
    )


def measure(agents: int, processes: int, seconds: float, chunk_s: float, folder: Path) -> dict[str, float]:
    server = EtcdServer(folder / f"etcd-{agents}")
    server.start()
    hosts = Hosts(server.endpoint, agents, processes, chunk_s)
    try:
        start = Mark.now(server)
        join_latency = percentiles(hosts.all("join"))
        if not all(reply["in_time"] for reply in hosts.all(f"seen {agents}")):
            raise SystemExit(f"{agents} agents do not come to know of each other on this machine")
        joined = Mark.now(server)
        print(row(agents, "join", start, joined, join_latency), flush=True)

        hosts.all("work")
        hosts.all("trained")
        trained = sum(int(reply["trained"]) for reply in hosts.all("look"))
        begun = Mark.now(server)
        replies = hosts.ask([f"probe {seconds}"] + [f"pause {seconds}"] * (processes - 1))
        time.sleep(0.5)
        steady = Mark.now(server)
        later = hosts.all("look")
        steady_latency = percentiles([*replies, *later])
        trained = sum(int(reply["trained"]) for reply in later) - trained
        print(row(agents, "steady", begun, steady, steady_latency), flush=True)

        before = Mark.now(server)
        gone = [count // 10 for count in hosts.counts]
        hosts.ask([f"leave {count}" for count in gone])
        last = hosts.all(f"seen {agents - sum(gone)}")
        left = Mark.now(server)
        print(row(agents, "leave", before, left, (0.0, 0.0)), flush=True)
        print(
            f"{agents:>10}  a trained chunk is {(steady.revisions - begun.revisions) / max(1, trained):.3f} revisions"
            f" and {(steady.asked_bytes - begun.asked_bytes) / max(1, trained):,.0f} bytes asked of etcd"
            + (f", before {EARLIER}" if (agents, chunk_s) == (3, 0.02) else ""),
            flush=True,
        )
        if not all(reply["in_time"] for reply in last):
            print(
                f"{agents:>10}  the agents did not get over the leave: they starve for CPU in these processes"
            )
    finally:
        hosts.stop()
        server.stop()
    took = steady.at - begun.at
    leave = {
        f"leave_s_{agents}": round(left.at - before.at, 2),
        f"leave_etcd_cpu_s_{agents}": round(left.cpu_s - before.cpu_s, 2),
    }
    return (leave if all(reply["in_time"] for reply in last) else {}) | {
        f"join_s_{agents}": round(joined.at - start.at, 2),
        f"join_etcd_cpu_s_{agents}": round(joined.cpu_s - start.cpu_s, 2),
        f"join_bytes_per_agent_{agents}": round((joined.bytes - start.bytes) / agents),
        f"etcd_cpu_share_{agents}": round((steady.cpu_s - begun.cpu_s) / took, 4),
        f"etcd_cpu_s_per_agent_hour_{agents}": round(3600 * (steady.cpu_s - begun.cpu_s) / took / agents, 2),
        f"etcd_cpu_ms_per_chunk_{agents}": round(1000 * (steady.cpu_s - begun.cpu_s) / max(1, trained), 2),
        f"revisions_per_chunk_{agents}": round((steady.revisions - begun.revisions) / max(1, trained), 4),
        f"asked_bytes_per_chunk_{agents}": round(
            (steady.asked_bytes - begun.asked_bytes) / max(1, trained), 1
        ),
        f"chunks_per_agent_s_{agents}": round(trained / took / agents, 4),
        f"transactions_per_s_{agents}": round((steady.transactions - begun.transactions) / took, 1),
        f"requests_per_s_{agents}": round((steady.requests - begun.requests) / took, 1),
        f"bytes_per_agent_s_{agents}": round((steady.bytes - begun.bytes) / took / agents, 1),
        f"watch_p50_s_{agents}": round(steady_latency[0], 5),
        f"watch_p99_s_{agents}": round(steady_latency[1], 5),
        f"leases_lost_{agents}": sum(int(reply["leases_lost"]) for reply in last),
    }


def main() -> int:
    if sys.argv[1:2] == ["--host"]:
        endpoint, first, count, of_all, chunk_s = sys.argv[2:]
        asyncio.run(host(endpoint, int(first), int(count), int(of_all), float(chunk_s)))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agents", default="100,1000", help="numbers of agents, separated by commas")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long the steady state is watched")
    parser.add_argument("--chunk-seconds", type=float, default=4.0, help="how long an agent trains a chunk")
    parser.add_argument("--processes", type=int, default=2, help="processes that the agents share")
    options = parser.parse_args()
    sizes = sorted(map(int, options.agents.split(",")))
    figures: dict[str, float] = {}
    print(*(f"{heading:>10}" for heading in HEADINGS))
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-control-plane-") as folder:
        for agents in sizes:
            figures |= measure(
                agents, options.processes, options.seconds, options.chunk_seconds, Path(folder)
            )
    name = (
        "etcd_cpu_ms_per_chunk"  # alike work: where agents starve for CPU of their own they ask less a second
    )
    if len(sizes) > 1 and figures[f"{name}_{sizes[0]}"]:
        ratio = figures[f"{name}_{sizes[-1]}"] / figures[f"{name}_{sizes[0]}"]
        figures["per_agent_cost_ratio"] = round(ratio, 3)
    print(f"RESULT {json.dumps(figures)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GossipCaffeError as error:
        sys.exit(str(error))
