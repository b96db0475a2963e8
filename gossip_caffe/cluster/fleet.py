"""The peer processes of a local cluster: started, watched, signalled, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.cluster.plan import card_for
from gossip_caffe.cluster.state import ClusterState
from gossip_caffe.processes import spawn

_CHILDREN = {"solver": b"gossip_caffe.solver.child", "loader": b"gossip_caffe.data.loader"}


@dataclass(slots=True)
class PeerProcess:
    """One peer of the fleet. ``code``: its exit code, minus the signal's number when killed, None while it runs.

    ``card``: the one that it trains on, None on the CPU.
    """

    name: str
    process: subprocess.Popen[bytes]
    code: int | None = None
    stopping: bool = False
    card: int | None = None

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
    """All peers that this supervisor has started. Use it from the main thread, with the event loop running.

    Their names are ``prefix`` and a number that counts up; ``more`` are words for each of their commands, ``words_of``
    gives further ones for a peer of that name, and ``before`` those that come before its command. ``cards``: see
    ``card_for``; whoever takes an ended peer's place takes its card.
    """

    def __init__(
        self,
        state: ClusterState,
        endpoint: str,
        job: str,
        engine: str,
        prefix: str = "p",
        more: Sequence[str] = (),
        words_of: Callable[[str], Sequence[str]] = lambda _: (),
        cards: Sequence[int] = (),
        before: Callable[[str], Sequence[str]] = lambda _: (),
    ) -> None:
        self._prefix = prefix
        self._state = state
        self._endpoint = endpoint
        self._job = job
        self._engine = engine
        self._more = more
        self._words_of = words_of
        self._cards = cards
        self._before = before
        self.peers: dict[str, PeerProcess] = {}
        self.on_end: list[Callable[[PeerProcess], None]] = []

    @property
    def running(self) -> list[PeerProcess]:
        """Peers that run, in the order of their start."""
        return [peer for peer in self.peers.values() if peer.running]

    def name(self, number: int) -> str:
        """The name of the peer that is started after ``number`` others."""
        return f"{self._prefix}{number}"

    def start(self) -> PeerProcess:
        """Start one more peer, under a name that was never used here."""
        name = self.name(len(self.peers))
        log = self._state.log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        card = card_for(self._cards, [peer.card for peer in self.running if peer.card is not None])
        command = [
            *self._before(name),
            *(sys.executable, "-m", "gossip_caffe", "peer", "start", "--etcd", self._endpoint),
            "--job",
            self._job,
            "--name",
            name,
            "--run-dir",
            str(self._state.run),
            "--engine",
            self._engine,
            *(["--gpu", str(card)] if card is not None else []),
            *self._more,
            *self._words_of(name),
        ]
        # Peers share this machine's cores: one BLAS thread each, unless the user says otherwise.
        threads = {"OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1")}
        with log.open("ab") as out:
            process = spawn(command, stdout=out, stderr=out, environment=threads)
        peer = self.peers[name] = PeerProcess(name, process, card=card)
        pidfd = os.pidfd_open(process.pid)
        asyncio.get_running_loop().add_reader(pidfd, self._ended, peer, pidfd)
        return peer

    def _ended(self, peer: PeerProcess, pidfd: int) -> None:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        peer.code = peer.process.wait()
        for callback in self.on_end:
            callback(peer)

    def cause(self, peer: PeerProcess) -> str:
        """Why a peer failed: the last line that it printed; empty for one that runs, left or was killed."""
        if not peer.code or peer.code < 0:
            return ""
        try:
            lines = self._state.log(peer.name).read_text(errors="replace").strip().splitlines()
        except FileNotFoundError:
            return ""
        return lines[-1].removeprefix("gossip-caffe: ") if lines else ""

    def parts(self, peer: PeerProcess) -> dict[str, int]:
        """Process ids of a running peer's agent, and of its solver and loader when it has them."""
        return {"agent": peer.pid, **_children(peer.pid)}

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


def _children(agent: int) -> dict[str, int]:
    """Solver and loader as the kernel knows them: no record can be out of date, and no number another program's."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "cmdline").read_bytes().split(b"\0") if parent == agent else []
        except OSError:
            continue  # it has ended meanwhile
        found.update({part: int(folder.name) for part, module in _CHILDREN.items() if module in words})
    return found
