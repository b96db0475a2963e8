"""An etcd server for local clusters, the demonstration and tests: one member, which ends with its parent process."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import time
import zlib
from pathlib import Path

from gossip_caffe.cluster.etcd.etcd_binary import HTTP_APART, find_etcd, knows
from gossip_caffe.cluster.etcd.etcd_log import why_etcd_ended
from gossip_caffe.cluster.etcd.ports import LOOPBACK, held_port
from gossip_caffe.errors import Conflict, EnvironmentProblem
from gossip_caffe.security.security import TlsFiles
from gossip_caffe.system.folders import folder_within, open_within
from gossip_caffe.system.processes import spawn
from gossip_caffe.system.unix_sockets import unix_address

CLIENTS = "etcd:1"
"""The name of the socket for clients. etcd requires the form of a host and a port."""
INSTEAD = "free some disk space, or set $GOSSIP_CAFFE_STATE to a folder of your own"
READY_DEADLINE_S = 20.0
STOP_DEADLINE_S = 5.0
_LOOK_EVERY_S = 0.02
_LOG_LETTERS = 64_000
_LEAST_FREE_BYTES = 1 << 20
_ITS_OWN = ("ETCD_", "NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")
"""Prefixes of variables that etcd reads; they may be meant for another etcd, or from systemd for our process."""
_STAYS = "ETCD_UNSUPPORTED_ARCH"  # etcd does not start on some processors without it
KEEPS_LITTLE = (
    *("--auto-compaction-mode", "periodic", "--auto-compaction-retention", "15s"),
    *("--snapshot-count", "1000", "--max-snapshots", "2", "--max-wals", "2"),
    *("--quota-backend-bytes", str(4 << 30)),
)
"""Flags that bound etcd's memory and disk under any load (docs/etcd.md).

History is kept for 15 to 30 s: long enough for a watch whose stream broke; a later watch lists all keys again. etcd
keeps the log's entries since the last snapshot in memory, by default 100,000 of them.
"""


def _without_its_own() -> dict[str, str | None]:
    """Return the variables to remove from etcd's environment: its command line has all of its settings."""
    return {name: None for name in os.environ if name.startswith(_ITS_OWN) and name != _STAYS}


def _frugal() -> dict[str, str | None]:
    """Let Go collect garbage when the heap has grown by 30 % of the used part; the default is 100 %."""
    return {"GOGC": os.environ.get("GOGC", "30")}


class EtcdServer:
    """One etcd process; ``data_dir`` may contain an earlier server's data.

    ``sockets``: a folder that only this user can open; etcd listens on a Unix socket in it, and on no port. Without it
    etcd listens on ``host`` (default: loopback) and ``port`` (0: any free port). The socket for other members of an
    etcd cluster is always a Unix socket, and the JSON gateway is off. ``flags``: more flags of etcd, which override
    these. ``tls``: the certificate of this server and the CA of its clients' certificates, of which each names its user
    of etcd by the CN; None: plain.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        host: str = LOOPBACK,
        *,
        sockets: Path | None = None,
        flags: tuple[str, ...] = (),
        tls: TlsFiles | None = None,
    ) -> None:
        self._data_dir = data_dir
        self._flags = flags
        self._tls = tls
        self._host = host
        self._port = port
        self._socket = sockets / CLIENTS if sockets is not None else None
        self._held: list[socket.socket] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._ended_with: int | None = None

    @property
    def endpoint(self) -> str:
        """The address for clients: "unix:PATH" or "host:port"."""
        return unix_address(self._socket) if self._socket is not None else f"{self._host}:{self._port}"

    @property
    def pid(self) -> int:
        """The process id; 0 when etcd does not run."""
        return self._process.pid if self._process is not None else 0

    @property
    def data_dir(self) -> Path:
        """The folder of etcd's data."""
        return self._data_dir

    @property
    def log(self) -> Path:
        """The file with etcd's output."""
        return self._data_dir.with_name(f"{self._data_dir.name}.log")

    def start(self) -> None:
        """Start etcd. Returns when it answers. Raises Conflict for a port in use, else EnvironmentProblem."""
        binary = find_etcd()
        if self._socket is None:
            self._hold_port()
        try:
            folder_within(self._data_dir, INSTEAD)
            self._spawn(binary)
        except OSError as error:
            self.stop()
            raise EnvironmentProblem(
                f"cannot start etcd in {self._data_dir.parent} ({error.strerror})",
                remedy="free some disk space, or set $GOSSIP_CAFFE_STATE to a folder that can be written",
            ) from None
        if not self._wait_ready():
            problem = self.problem()
            self.stop()
            raise problem

    def _hold_port(self) -> None:
        """Reserve the port until ``stop``, also while etcd is restarted."""
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
        self._port = self._held[0].getsockname()[1]

    @property
    def _folder(self) -> Path:
        """Etcd's working folder: etcd accepts no path of a Unix socket, only a name in its working folder."""
        return self._socket.parent if self._socket is not None else self._data_dir.parent

    @property
    def _members(self) -> str:
        """The name of the socket for other members, of which there are none."""
        return self._socket_name("members")

    @property
    def _http(self) -> str:
        """The name of the socket for HTTP, which only this user can open."""
        return self._socket_name("http")

    def _socket_name(self, purpose: str) -> str:
        """A name of a Unix socket in the form of a host and a port; it differs for each data folder."""
        return f"{purpose}:{1 + zlib.crc32(self._data_dir.name.encode()) % 65535}"

    def _spawn(self, binary: Path) -> None:
        scheme = "http" if self._tls is None else "https"
        client = f"{scheme}://{self.endpoint}" if self._socket is None else f"unix://{self._socket.name}"
        peer = f"unix://{self._members}"
        command = [str(binary.absolute()), "--name", "local", "--data-dir", str(self._data_dir.absolute())]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", f"local={peer}", "--log-level", "warn", "--logger", "zap"]
        command += ["--enable-grpc-gateway=false", *KEEPS_LITTLE, *self._secured(binary), *self._flags]
        self._remove_sockets()
        with open_within(self.log, "wb", INSTEAD) as log:
            self._process = spawn(
                command,
                stdout=log,
                stderr=log,
                environment={**_without_its_own(), **_frugal()},
                death_signal=signal.SIGKILL,
                folder=self._folder,
                umask=0o077,
            )

    def _secured(self, binary: Path) -> tuple[str, ...]:
        """Flags for TLS in both directions. etcd reads certificate and key again at each connection, the CA never."""
        if self._tls is None or self._socket is not None:
            return ()
        cacert, cert, key = map(str, (self._tls.cacert, self._tls.cert, self._tls.key))
        flags = ("--cert-file", cert, "--key-file", key, "--trusted-ca-file", cacert, "--client-cert-auth")
        return (*flags, HTTP_APART, f"unix://{self._http}") if knows(binary, HTTP_APART) else flags

    def _remove_sockets(self) -> None:
        """Remove the sockets of a killed etcd: a new one could not bind to them."""
        for path in (self._folder / self._members, self._folder / self._http, self._socket):
            if path is not None and path.is_socket():
                path.unlink(missing_ok=True)

    def _wait_ready(self) -> bool:
        process = self._process
        deadline = time.monotonic() + READY_DEADLINE_S
        while process is not None and process.poll() is None and time.monotonic() < deadline:
            if self._listens():
                return True
            time.sleep(_LOOK_EVERY_S)
        return False

    def _listens(self) -> bool:
        if self._socket is not None:
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(str(self._socket)) == 0
        with socket.socket() as probe:
            return probe.connect_ex((self._host, self._port)) == 0

    def _last_words(self) -> str:
        """Return the end of etcd's output, at most _LOG_LETTERS characters."""
        return self.log.read_text(errors="replace")[-_LOG_LETTERS:] if self.log.exists() else ""

    def _how_it_ended(self) -> str:
        """Describe how etcd ended, for an etcd that printed no reason."""
        code = self._ended_with
        if code is None:
            return f"no answer in {READY_DEADLINE_S:.0f} s"
        if shutil.disk_usage(self._data_dir.parent).free < _LEAST_FREE_BYTES:
            return f"no space left on the disk of {self._data_dir.parent}"
        return f"exit {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"

    @property
    def died(self) -> bool:
        """True if etcd has ended without ``stop`` or ``kill``."""
        return self._process is not None and self._process.poll() is not None

    def problem(self) -> EnvironmentProblem:
        """Make the error for an etcd that did not start, or ended soon after, with the remedy."""
        why = self.why_it_died()
        return EnvironmentProblem(
            f"etcd did not start: {why}", remedy=why_etcd_ended(self._last_words())[1] or f"see {self.log}"
        )

    def why_it_died(self) -> str:
        """Return the reason why etcd ended, from its own output if that contains one."""
        self._ended_with = self._process.poll() if self._process is not None else None
        was_killed = self._ended_with is not None and self._ended_with < 0
        cause, _ = why_etcd_ended(self._last_words(), was_killed=was_killed)
        return cause or self._how_it_ended()

    def stop(self) -> None:
        """Terminate etcd, kill it after STOP_DEADLINE_S, and free its port."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self._remove_sockets()
        while self._held:
            self._held.pop().close()

    def kill(self) -> None:
        """Kill etcd, as a crash would. A later ``start`` uses the same data, and the same port or socket."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
