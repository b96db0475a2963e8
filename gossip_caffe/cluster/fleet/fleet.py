"""The peer processes of a local cluster: they are started, watched, signalled, and always ended."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gossip_caffe.begin import python_command
from gossip_caffe.cluster.fleet.peer_messages import PeerMessages, in_words_of_a_cluster
from gossip_caffe.cluster.fleet.plan import gpu_for, name_from
from gossip_caffe.cluster.state.folder import ClusterState
from gossip_caffe.errors import EnvironmentProblem, ExitCode
from gossip_caffe.peer.core.overseer import SnapshotWanted, WeightsAt
from gossip_caffe.system.launch import descriptors, of_rank
from gossip_caffe.system.processes import end_descriptor, no_room, spawn

_CHILDREN = {"solver": b"gossip_caffe.solver.child", "loader": b"gossip_caffe.data.loader"}


@dataclass(slots=True)
class PeerProcess:
    """One peer of the fleet. ``code``: its exit code, or minus the signal's number; None while it runs.

    ``stopping``: the supervisor has asked it to leave. ``gpu``: its GPU's number; None: the CPU. ``messages``: the
    receiver of its messages.
    """

    name: str
    process: subprocess.Popen[bytes]
    code: int | None = None
    stopping: bool = False
    gpu: int | None = None
    messages: PeerMessages | None = None

    @property
    def pid(self) -> int:
        """The agent's process id."""
        return self.process.pid

    @property
    def weights_at(self) -> WeightsAt | None:
        """The address and layout at which its weights can be fetched; None before it has weights."""
        return self.messages.weights_at if self.messages is not None else None

    @property
    def running(self) -> bool:
        """True until the process has ended."""
        return self.code is None

    @property
    def left(self) -> bool:
        """True if it left in good order, with the job finished or not."""
        return self.code in {ExitCode.OK, ExitCode.LEFT}

    @property
    def how(self) -> str:
        """Its end as text: "left (exit 75)", "exit 1" or "killed by SIGKILL"; empty while it runs."""
        if self.code is None:
            return ""
        if self.code == ExitCode.LEFT:
            return f"left (exit {self.code:d})"
        return f"exit {self.code}" if self.code >= 0 else f"killed by {signal.Signals(-self.code).name}"


class Fleet:
    """All peers that this supervisor has started. Use it from the main thread, with the event loop running.

    A peer's name is ``prefix`` and a number that counts up; or it is one of ``names``, where these are given.
    ``more``: arguments for the command of each peer; ``arguments_of``: more arguments, from the peer's name;
    ``before``: arguments before the command. ``gpus``: see ``gpu_for``; the peer that replaces an ended one gets its
    GPU. ``on_trouble`` is called with each warning of a peer. ``on_end``: called with each peer that has ended.
    ``first_is_rank``: the first peer is the rank of MPI that this process was started as.
    """

    def __init__(
        self,
        state: ClusterState,
        endpoint: str,
        job: str,
        engine: str,
        prefix: str = "p",
        more: Sequence[str] = (),
        arguments_of: Callable[[str], Sequence[str]] = lambda _: (),
        gpus: Sequence[int] = (),
        before: Callable[[str], Sequence[str]] = lambda _: (),
        on_trouble: Callable[[str], None] = lambda _: None,
        names: Sequence[str] = (),
        *,
        first_is_rank: bool = False,
    ) -> None:
        self._names = names
        self._first_is_rank = first_is_rank
        self._prefix = prefix
        self._state = state
        self._endpoint = endpoint
        self._job = job
        self._engine = engine
        self._more = more
        self._arguments_of = arguments_of
        self._gpus = gpus
        self._before = before
        self._on_trouble = on_trouble
        self.peers: dict[str, PeerProcess] = {}
        self.on_end: list[Callable[[PeerProcess], None]] = []

    @property
    def running(self) -> list[PeerProcess]:
        """The peers that run, in the order of their start."""
        return [peer for peer in self.peers.values() if peer.running]

    def name(self, number: int) -> str:
        """Return the name of the peer that is started after ``number`` others, if none has ended."""
        return self._names[number % len(self._names)] if self._names else f"{self._prefix}{number}"

    def _next_name(self) -> str:
        """Return the next peer's name. Raises EnvironmentProblem when a peer runs under each of the given names."""
        if not self._names:
            return self.name(len(self.peers))
        if (name := name_from(self._names, tuple(self.peers), [peer.name for peer in self.running])) is None:
            raise EnvironmentProblem(
                f"the certificate has {len(self._names)} names, and so many peers run already",
                remedy="make one with more names: gossip-caffe tls issue NAME NAME …",
            )
        self.peers.pop(name, None)  # one of that name has ended
        return name

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of ``peer start`` that do not depend on the peer."""
        return (
            *("--etcd", self._endpoint, "--job", self._job, "--run-dir", str(self._state.run)),
            *("--engine", self._engine, *self._more),
        )

    def start(self) -> PeerProcess:
        """Start one more peer, with a name that this fleet has not used. Raises EnvironmentProblem."""
        name = self._next_name()
        gpu = gpu_for(self._gpus, [peer.gpu for peer in self.running if peer.gpu is not None])
        command = [
            *self._before(name),
            *python_command("gossip_caffe", "peer", "start", *self.arguments),
            "--name",
            name,
            *(["--gpu", str(gpu)] if gpu is not None else []),
            *self._arguments_of(name),
        ]
        # Peers share this machine's cores: each has one BLAS thread, unless the user has set the number.
        environment: dict[str, str | None] = {
            "OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1")
        }
        passed: tuple[int, ...] = ()
        if self._first_is_rank and not self.peers:
            environment |= of_rank(os.environ)
            passed = descriptors(os.environ)
        messages = PeerMessages(self._on_trouble)
        command += ["--overseer-fd", str(messages.peer_socket.fileno())]
        try:
            with self._opened(name) as out:
                process = spawn(
                    command,
                    pass_fds=[messages.peer_socket.fileno(), *passed],
                    stdout=out,
                    stderr=out,
                    environment=environment,
                )
            pidfd = end_descriptor(process)
        except OSError as error:
            messages.close()
            raise no_room(f"peer {name}", error) from error
        messages.begin()
        peer = self.peers[name] = PeerProcess(name, process, gpu=gpu, messages=messages)
        asyncio.get_running_loop().add_reader(pidfd, self._ended, peer, pidfd)
        return peer

    def _opened(self, name: str) -> IO[bytes]:
        """Open a peer's log. If it cannot be written, the peer trains without a log."""
        try:
            return self._state.open_log(name, "ab")
        except (OSError, EnvironmentProblem) as error:
            self._on_trouble(f"{name}: its log {self._state.log(name)} cannot be written ({error})")
            return Path(os.devnull).open("ab")

    def _ended(self, peer: PeerProcess, pidfd: int) -> None:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        peer.code = peer.process.wait()
        if peer.messages is not None:
            peer.messages.close()
        for callback in self.on_end:
            callback(peer)

    def cause(self, peer: PeerProcess) -> str:
        """Return the reason why a peer failed: its last line, or the limit behind a signal. Empty for other ends."""
        if peer.left:
            return ""
        if not peer.code or peer.code < 0:
            return _of_signal(-peer.code) if peer.code else ""
        try:
            lines = self._state.log(peer.name).read_text(errors="replace").strip().splitlines()
        except FileNotFoundError:
            return ""
        return in_words_of_a_cluster(lines[-1].removeprefix("gossip-caffe: ")) if lines else ""

    def parts(self, peer: PeerProcess) -> dict[str, int]:
        """Return the process ids of a running peer's agent, and of its solver and loader if they run."""
        return {"agent": peer.pid, **_children(peer.pid)}

    def ask_for_snapshot(self) -> None:
        """Ask all running peers for a snapshot: the peer makes it that is alone, or has the duty of checkpoints."""
        for peer in self.running:
            if peer.messages is not None:
                peer.messages.send(SnapshotWanted())

    def signal(self, pids: Sequence[int], number: signal.Signals) -> None:
        """Send a signal to processes of the fleet. A process that has ended meanwhile is no error."""
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    async def stop(self, peers: Sequence[PeerProcess], deadline_s: float) -> None:
        """Ask peers to leave, and kill those that have not left after ``deadline_s`` seconds."""
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


def _of_signal(number: int) -> str:
    """What the kernel says by a signal to a process that has used up its CPU time; "" otherwise."""
    remedy = "raise the limit with 'ulimit -t unlimited'"
    if number == signal.SIGXCPU:
        return f"its CPU time is used up; {remedy}"
    if number == signal.SIGKILL and resource.getrlimit(resource.RLIMIT_CPU)[1] != resource.RLIM_INFINITY:
        return f"perhaps because its CPU time is used up: there is a limit; {remedy}"
    return ""


def _children(agent: int) -> dict[str, int]:
    """Find an agent's solver and loader in /proc: unlike a record, it is never out of date."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes().split(b"\0") if parent == agent else []
        except OSError:
            continue  # the process has ended meanwhile
        found.update({part: int(folder.name) for part, module in _CHILDREN.items() if module in command})
    return found
