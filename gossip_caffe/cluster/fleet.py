"""The peer processes of a local cluster: started, watched, signalled, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gossip_caffe.cluster.state import ClusterState
from gossip_caffe.processes import spawn


@dataclass(slots=True)
class PeerProcess:
    """One peer of the fleet. ``code``: its exit code, minus the signal's number when killed, None while it runs."""

    name: str
    process: subprocess.Popen[bytes]
    code: int | None = None
    stopping: bool = False

    @property
    def pid(self) -> int:
        """The agent's process id."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """True until it has ended."""
        return self.code is None

    @property
    def how(self) -> str:
        """How it ended, in words; empty while it runs."""
        if self.code is None:
            return ""
        return f"exit {self.code}" if self.code >= 0 else f"killed by {signal.Signals(-self.code).name}"


class Fleet:
    """All peers that this supervisor has started. Use it from the main thread, with the event loop running."""

    def __init__(self, state: ClusterState, endpoint: str, job: str, engine: str) -> None:
        self._state = state
        self._endpoint = endpoint
        self._job = job
        self._engine = engine
        self.peers: dict[str, PeerProcess] = {}
        self.on_end: list[Callable[[PeerProcess], None]] = []

    @property
    def running(self) -> list[PeerProcess]:
        """Peers that run, in the order of their start."""
        return [peer for peer in self.peers.values() if peer.running]

    def start(self) -> PeerProcess:
        """Start one more peer, under a name that was never used here."""
        name = f"p{len(self.peers)}"
        log = self._state.log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "gossip_caffe", "peer", "start", "--etcd", self._endpoint]
        command += [
            "--job",
            self._job,
            "--name",
            name,
            "--run-dir",
            str(self._state.run),
            "--engine",
            self._engine,
        ]
        # Peers share this machine's cores: one BLAS thread each, unless the user says otherwise.
        threads = {"OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1")}
        with log.open("ab") as out:
            process = spawn(command, stdout=out, stderr=out, environment=threads)
        peer = self.peers[name] = PeerProcess(name, process)
        pidfd = os.pidfd_open(process.pid)
        asyncio.get_running_loop().add_reader(pidfd, self._ended, peer, pidfd)
        return peer

    def _ended(self, peer: PeerProcess, pidfd: int) -> None:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        peer.code = peer.process.wait()
        for callback in self.on_end:
            callback(peer)

    def last_words(self, peer: PeerProcess) -> str:
        """The last line that a peer printed."""
        try:
            lines = self._state.log(peer.name).read_text(errors="replace").strip().splitlines()
        except FileNotFoundError:
            return ""
        return lines[-1] if lines else ""

    def signal(self, pids: Sequence[int], number: signal.Signals) -> None:
        """Signal processes of the fleet; those that have ended meanwhile are no error."""
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    async def stop(self, peers: Sequence[PeerProcess], deadline_s: float) -> None:
        """Ask peers to leave, and kill those that have not after ``deadline_s``."""
        for peer in peers:
            if peer.running:
                peer.stopping = True
                self.signal([peer.pid], signal.SIGTERM)
        try:
            async with asyncio.timeout(deadline_s):
                while any(peer.running for peer in peers):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            self.signal([peer.pid for peer in peers if peer.running], signal.SIGKILL)
            while any(peer.running for peer in peers):
                await asyncio.sleep(0.02)
