"""A study on one machine: an embedded etcd, worker processes, and what a killed worker's replacement needs."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.begin import python_command
from gossip_caffe.clock import SystemClock
from gossip_caffe.cluster.etcd.own_etcd import own_etcd
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.cluster.fleet.plan import gpu_for
from gossip_caffe.cluster.state.folder import ClusterState
from gossip_caffe.cluster.state.sockets import remove_sockets
from gossip_caffe.errors import EnvironmentProblem, ExitCode, GossipCaffeError, StoreError
from gossip_caffe.job.code import OPTION as ALLOW_CODE
from gossip_caffe.membership.etcd.etcd_store import EtcdStore
from gossip_caffe.system.processes import end_descriptor, no_room, spawn
from gossip_caffe.tune.board.studies import create_study, go_on
from gossip_caffe.tune.study.spec import StudySpec
from gossip_caffe.tune.views.summary import Summary, summary_of, write_summary

LOOK_EVERY_S = 1.0
LEAVE_DEADLINE_S = 30.0
MOST_FAILURES = 3
"""Workers that end by an error, one after another, before the study is given up."""

Say = Callable[[str], None]


def state_of(study: str) -> ClusterState:
    """The folder of a study on this machine."""
    return ClusterState(f"tune-{study}")


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """The options of a study on this machine.

    ``of_workers``: more arguments of each ``tune work``; ``gpus``: as for ``cluster up``.
    """

    spec: StudySpec
    workers: int
    of_workers: tuple[str, ...] = ()
    gpus: tuple[int, ...] = ()


@dataclass(slots=True)
class _WorkerProcess:
    name: str
    process: subprocess.Popen[bytes]
    gpu: int | None
    code: int | None = None


class LocalStudy:
    """Runs a study's workers until it has ended, or until ``leave``. ``look`` gets each summary."""

    def __init__(self, options: LocalOptions, say: Say, look: Callable[[Summary], None]) -> None:
        self._options = options
        self._state = state_of(options.spec.name)
        self._say = say
        self._look = look
        self._workers: list[_WorkerProcess] = []
        self._asked = ""
        self._changed = asyncio.Event()
        self._failures: list[str] = []
        self._written: Summary | None = None
        self._etcd: EtcdServer | None = None

    def leave(self, reason: str) -> None:
        """Let all workers leave. A second call kills them."""
        if self._asked:
            self._signal(signal.SIGKILL)
        self._asked = self._asked or reason
        self._signal(signal.SIGTERM)
        self._changed.set()

    async def run(self) -> ExitCode:
        """Run the study. Returns OK when it has ended, LEFT or INTERRUPTED when it was asked to leave before.

        Raises GossipCaffeError when its workers fail.
        """
        with self._state.lock():
            self._etcd = own_etcd(self._state)
            store: EtcdStore | None = None
            try:
                self._etcd.start()
                store = EtcdStore((self._etcd.endpoint,), SystemClock(), random.Random(os.getpid()))
                created = await create_study(store, self._options.spec)
                await go_on(store, self._options.spec.name)
                self._say(f"study {self._options.spec.name} {'created' if created else 'goes on'}")
                return await self._watch(store)
            finally:
                await self._stop()
                if store is not None:
                    await store.close()
                self._etcd.stop()
                remove_sockets(self._state.sockets)

    async def _watch(self, store: EtcdStore) -> ExitCode:
        summary = await self._seen(store)
        if not (summary is not None and summary.ended):
            for _ in range(self._options.workers):
                self._start()
        while True:
            summary = await self._seen(store) or summary
            running = [worker for worker in self._workers if worker.code is None]
            if not running:
                break
            if self._etcd is not None and self._etcd.died:
                self._say(f"etcd died ({self._etcd.why_it_died()}); it is started again")
                self._etcd.stop()
                self._etcd.start()
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
        if summary is not None and (summary.ended or summary.board.stopped):
            return ExitCode.OK if summary.ended else ExitCode.LEFT
        if self._asked:
            return ExitCode.INTERRUPTED if self._asked == signal.SIGINT.name else ExitCode.LEFT
        why = self._failures[-1] if self._failures else "all workers have ended"
        raise GossipCaffeError(
            f"the study has no workers: {why}", remedy=f"see {self._state.folder / 'logs'}"
        )

    async def _seen(self, store: EtcdStore) -> Summary | None:
        """Read the study, show it, and write its file; None when etcd does not answer now."""
        try:
            summary = await summary_of(store, self._options.spec)
        except StoreError:
            return None
        self._look(summary)
        if summary != self._written:
            write_summary(self._state.folder, summary)
            self._written = summary
        return summary

    def _start(self) -> None:
        name = f"w{len(self._workers)}"
        taken = [worker.gpu for worker in self._workers if worker.code is None and worker.gpu is not None]
        gpu = gpu_for(self._options.gpus, taken)
        endpoint = self._etcd.endpoint if self._etcd is not None else ""
        command = [
            *python_command("gossip_caffe", "tune", "work", "--study", self._options.spec.name),
            *("--etcd", endpoint, "--worker", name, "--run-dir", str(self._state.folder / "trials")),
            *(("--gpu", str(gpu)) if gpu is not None else ()),
            *self._options.of_workers,
        ]
        if not os.environ.get("GOSSIP_CAFFE_ALLOW_CODE") and ALLOW_CODE not in command:
            command.append(ALLOW_CODE)  # only this user can write to this etcd
        try:
            with self._state.open_log(name, "ab") as out:
                process = spawn(command, stdout=out, stderr=out)
            descriptor = end_descriptor(process)
        except OSError as error:
            raise no_room(f"worker {name}", error) from error
        worker = _WorkerProcess(name, process, gpu)
        self._workers.append(worker)
        asyncio.get_running_loop().add_reader(descriptor, self._ended, worker, descriptor)

    def _ended(self, worker: _WorkerProcess, descriptor: int) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        code = worker.code = worker.process.wait()
        self._changed.set()
        if code in {ExitCode.OK, ExitCode.LEFT}:
            self._failures.clear()
            return
        if code > 0:
            self._failures.append(_last_line(self._state.log(worker.name)))
            self._say(f"{worker.name} ended (exit {code}): {self._failures[-1]}")
        else:
            self._say(
                f"{worker.name} was killed by {signal.Signals(-code).name}: its trial goes on elsewhere"
            )
        if self._asked or len(self._failures) >= MOST_FAILURES:
            return
        try:
            self._start()
            self._say(f"{self._workers[-1].name} replaces it")
        except EnvironmentProblem as error:  # a callback of the event loop has no caller that could handle it
            self._say(f"no worker replaces it: {error}")

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.code is None:
                worker.process.send_signal(number)

    async def _stop(self) -> None:
        self._asked = self._asked or "the study ends"
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._signal(number)
            try:
                async with asyncio.timeout(LEAVE_DEADLINE_S):
                    while any(worker.code is None for worker in self._workers):
                        await asyncio.sleep(0.02)
                return
            except TimeoutError:
                continue


def _last_line(log: Path) -> str:
    try:
        lines: Sequence[str] = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].removeprefix("gossip-caffe: ") if lines else ""
