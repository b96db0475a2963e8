"""Three etcd members on loopback, for tests that kill one of them."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gossip_caffe.cluster.etcd.etcd_binary import find_etcd
from gossip_caffe.cluster.etcd.ports import held_port
from gossip_caffe.system.processes import spawn
from tests.cluster_run import wait_for

MEMBERS = 3


class EtcdTrio:
    """Three processes that are one store; ``endpoints`` reaches them all."""

    def __init__(self, folder: Path, flags: tuple[str, ...] = ()) -> None:
        self._folder = folder
        self._flags = flags
        self._held = [held_port() for _ in range(2 * MEMBERS)]
        ports = [held.getsockname()[1] for held in self._held]
        self._clients, self._peers = ports[:MEMBERS], ports[MEMBERS:]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def endpoints(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in self._clients)

    def start(self, member: int) -> None:
        """Start a member, with the data that it had."""
        client, peer = (f"http://127.0.0.1:{ports[member]}" for ports in (self._clients, self._peers))
        everybody = ",".join(f"m{index}=http://127.0.0.1:{port}" for index, port in enumerate(self._peers))
        command = [str(find_etcd()), "--name", f"m{member}", "--data-dir", str(self._folder / f"m{member}")]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", everybody, "--log-level", "warn", "--logger", "zap"]
        command += ["--experimental-initial-corrupt-check=true", *self._flags]
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"m{member}.log").open("ab") as log:
            self._processes[member] = spawn(command, stdout=log, stderr=log, death_signal=signal.SIGKILL)

    def let_go(self) -> None:
        """End all members, and let their ports go."""
        for member in list(self._processes):
            self.kill(member)
        for held in self._held:
            held.close()

    def kill(self, member: int) -> None:
        """End a member as a crash would."""
        process = self._processes.pop(member)
        process.kill()
        process.wait()

    def is_healthy(self, member: int) -> bool:
        """Whether a member takes part: it has a leader and answers a linearised read."""
        command = [str(find_etcd().with_name("etcdctl")), "--command-timeout=2s"]
        command += ["--endpoints", f"127.0.0.1:{self._clients[member]}", "endpoint", "health"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def leader(self) -> int | None:
        """Which living member leads; None where none says so now, as during an election."""
        for member in self._processes:
            command = [str(find_etcd().with_name("etcdctl")), "--command-timeout=2s", "-w", "fields"]
            command += ["--endpoints", f"127.0.0.1:{self._clients[member]}", "endpoint", "status"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            fields = dict(line.split(" : ", 1) for line in done.stdout.splitlines() if " : " in line)
            if fields.get('"Leader"') and fields['"Leader"'] == fields.get('"MemberID"'):
                return member
        return None


@contextmanager
def etcd_trio(folder: Path, flags: tuple[str, ...] = ()) -> Iterator[EtcdTrio]:
    trio = EtcdTrio(folder, flags)
    try:
        for member in range(MEMBERS):
            trio.start(member)
        wait_for("all members are healthy", lambda: all(map(trio.is_healthy, range(MEMBERS))), 60.0)
        yield trio
    finally:
        trio.let_go()
