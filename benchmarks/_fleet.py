"""Peers of one job on this machine, and workers of one torchrun, for benchmarks that kill and start them."""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _models import MODELS, write_solver
from _peer_process import start_peer, wait_for_end

from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.data.sources import source
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.jobs import create_job
from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.reading import read_history
from gossip_caffe.observe.log.runs import one_by_one

DEADLINE_S = 300.0
JOB = "fleet"


@dataclass
class Fleet:
    """Peers of the job JOB, which ``start`` names p0, p1 and so on."""

    endpoint: str
    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> str:
        name = f"p{len(self.processes)}"
        log = self.folder / f"{name}.log"
        self.processes[name] = start_peer(self.endpoint, JOB, name, self.folder, log)
        return name

    def events(self, name: str, *kinds: Event) -> list[tuple[float, Mapping[str, Any]]]:
        """(monotonic seconds, event) of these kinds, in order."""
        found = one_by_one(read_history(self.folder / "events", name).events)
        return [(float(entry["m"]), entry) for entry in found if entry["event"] in kinds]

    def steps(self, name: str) -> list[float]:
        return [at for at, _ in self.events(name, Event.TRAINED)]

    def in_flight(self, name: str) -> set[tuple[object, object]]:
        """(epoch, chunk) that it owned at its end."""
        owned: set[tuple[object, object]] = set()
        for _, entry in self.events(name, Event.CLAIMED, Event.DONE, Event.RELEASED):
            chunks = {(entry["epoch"], chunk) for chunk in entry["chunks"]}
            owned = owned | chunks if entry["event"] == Event.CLAIMED else owned - chunks
        return owned

    @property
    def living(self) -> list[str]:
        return [name for name, process in self.processes.items() if process.poll() is None]

    def stop(self) -> None:
        for name in self.living:
            self.processes[name].terminate()
        for process in self.processes.values():
            wait_for_end(process)


@dataclass
class Torchrun:
    """An elastic PyTorch job of ``workers`` ranks: one agent and a c10d rendezvous, the form that recovers soonest."""

    torchrun: str
    workers: int
    folder: Path

    def start(self, restarts: int = 30) -> None:
        """Start it. ``restarts``: the deaths that it survives."""
        self.folder.mkdir()
        command = [self.torchrun, "--nnodes", "1", "--nproc-per-node", str(self.workers)]
        command += ["--max-restarts", str(restarts), "--rdzv-backend", "c10d"]
        command += ["--rdzv-endpoint", "127.0.0.1:0"]
        command += [str(Path(__file__).with_name("_torchrun_worker.py")), str(self.folder)]
        with (self.folder / "torchrun.log").open("wb") as log:
            self._agent = subprocess.Popen(command, stdout=log, stderr=log)

    def stop(self) -> None:
        self._agent.terminate()
        self._agent.wait(30)

    def steps(self, rank: int) -> list[float]:
        """The monotonic seconds of its steps, in order."""
        return [float(line) for line in self._lines(rank)[:-1] if not line.startswith("pid")]

    def pids(self, rank: int) -> list[int]:
        """The processes that were this rank, one after the other."""
        return [int(line.split()[1]) for line in self._lines(rank) if line.startswith("pid")]

    def _lines(self, rank: int) -> list[str]:
        path = self.folder / f"{rank}.steps"
        return path.read_text().splitlines() if path.exists() else []


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {DEADLINE_S:.0f} s: {what}")
        time.sleep(0.05)


@contextmanager
def training_fleet(net: str, peers: int, settings: JobSettings, folder: Path) -> Iterator[Fleet]:
    """Peers that all train one job without an end. ``net``: a name in MODELS."""
    server = EtcdServer(folder / "etcd")
    server.start()
    fleet = Fleet(server.endpoint, folder)
    try:
        solver = write_solver(MODELS[net], folder, max_iter=1_000_000)
        asyncio.run(_make_job(server.endpoint, solver, settings))
        for _ in range(peers):
            fleet.start()
        wait_for("all train", lambda: all(fleet.steps(name) for name in fleet.processes))
        yield fleet
    finally:
        fleet.stop()
        server.stop()


async def _make_job(endpoint: str, solver_file: Path, settings: JobSettings) -> None:
    store = EtcdStore([endpoint], SystemClock(), random.Random(1))
    try:
        await create_job(store, read_job(JOB, solver_file, settings, source.measure))
    finally:
        await store.close()
