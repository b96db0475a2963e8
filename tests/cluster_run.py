"""A local cluster as a user runs it, for tests: started by the command, seen by the command, and fully accounted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gossip_caffe.cluster.state.folder import ClusterState
from gossip_caffe.cluster.supervision.control import ask
from gossip_caffe.errors import NotFound

ROOT = Path(__file__).parent.parent
DEADLINE_S = 180.0
"""Far more than anything takes: a machine may be busy with other things."""
MOST_BETWEEN_LOOKS_S = 1.0


def wait_for(
    what: str, condition: Callable[[], Any], deadline_s: float = DEADLINE_S, look_every_s: float = 0.1
) -> Any:
    """The first true value of a condition; fails the test when there is none in time.

    A costly look is made less often: it takes the processors from the processes that the test waits for.
    """
    deadline = time.monotonic() + deadline_s
    while (began := time.monotonic()) < deadline:
        if value := condition():
            return value
        took_s = time.monotonic() - began
        time.sleep(max(look_every_s, min(10 * took_s, MOST_BETWEEN_LOOKS_S)))
    raise AssertionError(f"not within {deadline_s:.0f} s: {what}")


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr, after what a slow machine is told meanwhile."""
    *news, line = done.stderr.splitlines()
    assert all(entry.endswith("…") for entry in news), done.stderr
    return str(line)


@dataclass
class ClusterRun:
    """One test's clusters. All processes that it starts carry ``marker`` in their environment."""

    folder: Path
    marker: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            "GOSSIP_CAFFE_STATE": str(self.folder),
            "GOSSIP_CAFFE_TEST_RUN": self.marker,
            "OPENBLAS_NUM_THREADS": "1",
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "gossip_caffe", *arguments]

    def run(
        self, *arguments: str, deadline_s: float = DEADLINE_S, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )

    def start(self, *arguments: str, cwd: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a command and leave it running; its output goes to a file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "up.log").open("wb") as log:
            return subprocess.Popen(
                self.command(*arguments), env=self.environment, cwd=cwd, stdout=log, stderr=log
            )

    def status(self) -> dict[str, Any]:
        """The cluster's status, empty when none is up."""
        try:
            return ask(ClusterState("local", self.folder), {"do": "status"})
        except NotFound:
            return {}

    def peers(self) -> dict[str, dict[str, Any]]:
        """Status records of the running peers, by name."""
        return {
            peer["peer"]: peer["status"]
            for peer in self.status().get("peers", [])
            if peer["running"] and "status" in peer
        }

    def training(self) -> dict[str, dict[str, Any]]:
        """Those of them that train."""
        return {
            name: peer
            for name, peer in self.peers().items()
            if peer["state"] == "training" and peer["iteration"]
        }

    def processes(self) -> dict[int, str]:
        """Every living process of this run: pid → command line."""
        found = {}
        needle = f"GOSSIP_CAFFE_TEST_RUN={self.marker}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if needle in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                    state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                    if state != "Z":
                        found[int(folder.name)] = (
                            (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                        )
            except OSError:
                continue
        return found

    def assert_nothing_is_left(self) -> None:
        """No process of this run, hence no memfd, and nothing in /dev/shm but the files of simulations."""
        wait_for("all processes of the run are gone", lambda: not self.processes(), 20.0)
        named = [path.name for path in Path("/dev/shm").iterdir() if "gossip" in path.name]
        assert not [name for name in named if not name.startswith("gossip-caffe-sim-")]


@contextmanager
def cluster_run(folder: Path) -> Iterator[ClusterRun]:
    """A run whose processes are all ended in the end, by pid, whatever the test did."""
    run = ClusterRun(folder)
    try:
        yield run
    finally:
        for pid in run.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def memfds(pid: int) -> int:
    """How many memfds of ours a process holds."""
    count = 0
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            count += "memfd:gossip-caffe" in str(link.readlink())
        except OSError:
            continue
    return count
