"""Peers of one job, each a process of its own, as many machines would start them; for examples."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from gossip_caffe.begin import python_command
from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.errors import GossipCaffeError
from gossip_caffe.system.processes import spawn

_END_DEADLINE_S = 15.0


class Fleet:
    """A context manager: an etcd on a Unix socket, and processes that end with the block.

    ``folder``: the peers' events and checkpoints go to ``folder``/run, their output to ``folder``/logs. Those of an
    earlier run are removed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in ("etcd", "run", "logs"):
            shutil.rmtree(folder / part, ignore_errors=True)
        self._sockets = tempfile.TemporaryDirectory(prefix="gossip-caffe-")
        self._server = EtcdServer(folder / "etcd", sockets=Path(self._sockets.name))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def etcd(self) -> str:
        """The endpoint of etcd, for ``gossip_caffe.connect`` and ``--etcd``."""
        return self._server.endpoint

    @property
    def run_dir(self) -> Path:
        """The run folder of all peers."""
        return self.folder / "run"

    @property
    def running(self) -> tuple[str, ...]:
        """The names of the peers whose processes have not ended."""
        return tuple(name for name, process in self._processes.items() if process.poll() is None)

    def start_peer(
        self, name: str, job: str, *words: str, environment: Mapping[str, str] | None = None
    ) -> None:
        """Run ``gossip-caffe peer start`` with further words and variables of the environment."""
        of_peer = ("--etcd", self.etcd, "--job", job, "--name", name, "--run-dir", str(self.run_dir))
        self.start(name, python_command("gossip_caffe", "peer", "start", *of_peer, *words), environment)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Run any command as the process of a peer; its output goes to ``folder``/logs/NAME.log."""
        logs = self.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        one_thread = {"OPENBLAS_NUM_THREADS": "1", "GLOG_minloglevel": "2"}
        with (logs / f"{name}.log").open("wb") as log:
            variables = {**one_thread, **(environment or {})}
            self._processes[name] = spawn(command, stdout=log, stderr=log, environment=variables)

    def kill(self, name: str) -> None:
        """``kill -9``: its solver and its loader die with it."""
        self._processes[name].kill()

    def wait(self, deadline_s: float) -> dict[str, int]:
        """Wait until all have ended. Returns the exit code of each; minus a signal's number for the killed.

        Raises GossipCaffeError after ``deadline_s`` seconds.
        """
        give_up_at = time.monotonic() + deadline_s
        codes = {}
        for name, process in self._processes.items():
            try:
                codes[name] = process.wait(max(0.0, give_up_at - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise GossipCaffeError(
                    f"{name} has not ended within {deadline_s:.0f} s", remedy=f"see {self.folder}/logs"
                ) from None
        return codes

    def __enter__(self) -> Self:
        """Start etcd."""
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all processes: peers leave in good order if they can, then etcd stops."""
        for name in self.running:
            self._processes[name].send_signal(signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(_END_DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._server.stop()
        self._sockets.cleanup()
