"""A worker's peers as processes: each is ``gossip-caffe peer start``, and dies with its worker."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from gossip_caffe.begin import python_command
from gossip_caffe.errors import EnvironmentProblem
from gossip_caffe.system.folders import folder_within, open_within
from gossip_caffe.system.processes import end_descriptor, no_room, spawn
from gossip_caffe.tune.work.decisions import PeerEnd

LEAVE_DEADLINE_S = 15.0
INSTEAD = "give another --run-dir"


class PeerProcess:
    """One peer. ``log``: the file with its output."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, on_end: Callable[[], None]) -> None:
        self._process = process
        self._log = log
        self._on_end = on_end
        self._end: PeerEnd | None = None
        self._ended = asyncio.Event()
        descriptor = end_descriptor(process)
        asyncio.get_running_loop().add_reader(descriptor, self._note_end, descriptor)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def end(self) -> PeerEnd | None:
        """How it ended; None while it runs."""
        return self._end

    async def leave(self) -> None:
        """Ask it to leave; it is killed after LEAVE_DEADLINE_S."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._end is None:
                self._process.send_signal(number)
            try:
                async with asyncio.timeout(LEAVE_DEADLINE_S):
                    await self._ended.wait()
                    return
            except TimeoutError:
                continue

    def _note_end(self, descriptor: int) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        code = self._process.wait()
        self._end = PeerEnd(code, _last_line(self._log) if code > 0 else "")
        self._ended.set()
        self._on_end()


class PeerProcesses:
    """Starts the peers of one worker. A peer's name is the worker's, with a number that counts up.

    ``is_named``: the peers get that name; else that of their certificate. ``run_dir``: holds a run folder for each job.
    ``more``: more arguments of ``peer start``.
    """

    def __init__(
        self,
        worker: str,
        endpoints: str,
        run_dir: Path,
        engine: str,
        more: Sequence[str] = (),
        *,
        is_named: bool = True,
    ) -> None:
        self._is_named = is_named
        self._worker = worker
        self._endpoints = endpoints
        self._run_dir = run_dir
        self._engine = engine
        self._more = more
        self._started = 0

    def __call__(self, job: str, on_end: Callable[[], None]) -> PeerProcess:
        """Start a peer for a job. Raises EnvironmentProblem."""
        self._started += 1
        name = f"{self._worker}-{self._started}"
        folder = self._run_dir / job
        command = [
            *python_command("gossip_caffe", "peer", "start", "--etcd", self._endpoints, "--job", job),
            *(("--name", name) if self._is_named else ()),
            *("--run-dir", str(folder), "--engine", self._engine, *self._more),
        ]
        threads = {"OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1")}
        try:
            for parent in (self._run_dir, folder, folder / "logs"):
                folder_within(parent, INSTEAD)
            log = folder / "logs" / f"{name}.log"
            with open_within(log, "ab", INSTEAD) as out:
                process = spawn(command, stdout=out, stderr=out, environment=threads)
            return PeerProcess(process, log, on_end)
        except EnvironmentProblem:
            raise
        except OSError as error:
            raise no_room(f"peer {name}", error) from error


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].removeprefix("gossip-caffe: ")[:300] if lines else ""
