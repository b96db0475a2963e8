"""The agent of a script that is a peer: a child process that holds the lease, exchanges, and dies with the script."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from gossip_caffe.api.own_loop import LOOP
from gossip_caffe.begin import python_command
from gossip_caffe.errors import (
    Conflict,
    EnvironmentProblem,
    ExitCode,
    GossipCaffeError,
    ModelError,
    NotFound,
    StoreError,
    UsageError,
)
from gossip_caffe.system.control import Control
from gossip_caffe.system.processes import no_room, spawn

_ERRORS: dict[int, type[GossipCaffeError]] = {
    kind.exit_code: kind
    for kind in (UsageError, NotFound, StoreError, Conflict, EnvironmentProblem, ModelError)
}
END_DEADLINE_S = 10.0


class AgentProcess:
    """The process ``gossip-caffe peer start`` whose solver is this process. ``control``: the socket to it.

    ``words``: its options. ``log``: the file to which its output is appended. Raises EnvironmentProblem.
    """

    def __init__(self, words: Sequence[str], log: Path) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.log = log
        with theirs:
            command = python_command(
                "gossip_caffe", "peer", "start", *words, "--script-fd", str(theirs.fileno())
            )
            try:
                log.parent.mkdir(parents=True, exist_ok=True)
                self._process = LOOP.call(_spawned(command, theirs.fileno(), log))
            except OSError as error:
                ours.close()
                raise no_room("the agent of this peer", error) from error
        self.control = Control(ours.detach())

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ended(self, deadline_s: float = END_DEADLINE_S) -> int:
        """Wait for its end, and kill it after ``deadline_s``. Returns its exit code, or minus a signal's number."""
        try:
            return self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()

    def kill(self) -> None:
        """Kill it at once, as the death of this peer."""
        self._process.kill()

    def error(self, code: int) -> GossipCaffeError | None:
        """Return the error for which it ended with that code; None if it has left in good order."""
        if code in {ExitCode.OK, ExitCode.LEFT}:
            return None
        if code < 0:
            return EnvironmentProblem(
                f"the agent of this peer was ended by {signal.Signals(-code).name}",
                remedy=f"join again; see {self.log}",
            )
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.is_file() else []
        message = (
            lines[-1].removeprefix("gossip-caffe: ") if lines else f"the agent ended with exit code {code}"
        )
        return _ERRORS.get(code, GossipCaffeError)(
            message, remedy="" if ";" in message else f"see {self.log}"
        )


async def _spawned(command: Sequence[str], fd: int, log: Path) -> subprocess.Popen[bytes]:
    """Start the process in the thread of the loop, which ends with this process only: so does the child."""
    with log.open("ab") as out:
        return spawn(command, pass_fds=[fd], stdout=out, stderr=out)
