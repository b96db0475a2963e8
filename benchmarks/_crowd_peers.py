"""Real peers of one job for the benchmark of crowds: each with a run folder of its own, and ports of loopback."""

from __future__ import annotations

import asyncio
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from _models import Model, write_solver
from _peer_process import start_peer, wait_for_end

from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.data.sources import source
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.membership.jobs import create_job
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import PeerRecord, list_members
from gossip_caffe.observe.log.events import Event
from gossip_caffe.observe.log.reading import read_history
from gossip_caffe.observe.log.runs import one_by_one

T = TypeVar("T")

DEADLINE_S = 300.0
JOB = "crowds"


class Peers:
    """The peers that were started, by name."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        self._endpoint = endpoint
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, descriptors: int = 0) -> None:
        """Start one; ``descriptors``: its limit on open files."""
        log = self._folder / f"{name}.log"
        self._processes[name] = start_peer(
            self._endpoint, JOB, name, self._folder / name, log, descriptors=descriptors
        )

    def pid(self, name: str) -> int:
        """That of its agent."""
        return self._processes[name].pid

    def events(self, name: str, kind: Event, **fields: object) -> list[dict[str, Any]]:
        """Its events of that kind that have these fields."""
        return [
            dict(event)
            for event in one_by_one(read_history(self._folder / name / "events", name).events)
            if event["event"] == kind and all(event.get(key) == value for key, value in fields.items())
        ]

    def wait_for(self, name: str, kind: Event, **fields: object) -> dict[str, Any]:
        """The first such event. Ends the benchmark when there is none in time, or the peer has ended."""

        def first() -> dict[str, Any] | None:
            if self._processes[name].poll() is not None:
                raise SystemExit(f"{name} has ended: {self._said(name)}")
            return next(iter(self.events(name, kind, **fields)), None)

        return wait_for(f"{kind} of {name}: {self._said(name)}", first)

    def _said(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()[-500:]

    def records(self) -> dict[str, PeerRecord]:
        """Those of all living peers, by name."""

        async def listed() -> list[PeerRecord]:
            store = EtcdStore([self._endpoint], SystemClock(), random.Random(1))
            try:
                return await list_members(store, JobKeys(JOB))
            finally:
                await store.close()

        return {record.peer: record for record in asyncio.run(listed())}

    def stop(self, *names: str) -> None:
        """Ask these to leave, or all, and wait."""
        leaving = [self._processes.pop(name) for name in names or tuple(self._processes)]
        for process in leaving:
            process.terminate()
        for process in leaving:
            wait_for_end(process)


def wait_for(what: str, condition: Callable[[], T | None]) -> T:
    """The first value that is true. Ends the benchmark when there is none in time."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {DEADLINE_S:.0f} s: {what}")
        time.sleep(0.05)
    return found


@contextmanager
def peers_of_a_job(model: Model, settings: JobSettings) -> Iterator[Peers]:
    """An etcd and a job on it, to which peers may be started; all of it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-crowds-") as name:
        folder = Path(name)
        server = EtcdServer(folder / "etcd")
        server.start()
        peers = Peers(server.endpoint, folder)

        async def make_job() -> None:
            store = EtcdStore([server.endpoint], SystemClock(), random.Random(1))
            try:
                solver = write_solver(model, folder, max_iter=10_000_000)
                await create_job(store, read_job(JOB, solver, settings, source.measure))
            finally:
                await store.close()

        try:
            asyncio.run(make_job())
            yield peers
        finally:
            peers.stop()
            server.stop()
