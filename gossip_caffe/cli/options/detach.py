"""``cluster up --detach``: start a supervisor in the background, and return as soon as its peers train."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gossip_caffe.begin import for_python
from gossip_caffe.cli.terminal.streams import say
from gossip_caffe.cluster.view import headline
from gossip_caffe.errors import ExitCode, GossipCaffeError, NotFound

if TYPE_CHECKING:
    from gossip_caffe.cluster.state.folder import ClusterState

READY_DEADLINE_S = 120.0


def run_detached(state: ClusterState, command: list[str]) -> None:
    """Run ``command``, a supervisor, in the background, and return when its peers train.

    Raises the supervisor's own error when it ends before that.
    """
    log = state.log("supervisor")
    surroundings = {**os.environ, **for_python()}
    with state.open_log("supervisor", "wb") as out:
        # The cluster survives when its terminal closes, and when the system ends what is left of a login.
        hung_up = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={name: value for name, value in surroundings.items() if value is not None},
                start_new_session=True,
            )
        finally:
            signal.signal(signal.SIGHUP, hung_up)
    try:
        _wait_until_they_train(state, process, log)
    except KeyboardInterrupt:
        process.terminate()  # the user was not told yet that it runs
        process.wait()
        raise


def _wait_until_they_train(state: ClusterState, process: subprocess.Popen[bytes], log: Path) -> None:
    from gossip_caffe.cluster.supervision.control import ask  # noqa: PLC0415 - --help must not wait for it

    deadline = time.monotonic() + READY_DEADLINE_S
    said = ""
    while time.monotonic() < deadline:
        if (code := process.poll()) is not None:
            _pass_on(code, log.read_text(errors="replace").strip().splitlines())
            return
        try:
            status = ask(state, {"do": "status"})
        except NotFound:
            status = None
        if status is not None:
            if (line := headline(status)) != said:
                said = line
                say(line)
            # A peer without a pid is on another machine, or its record has outlived it: it was killed just now.
            running = [peer for peer in status["peers"] if peer["running"] and peer["pid"]]
            if running and all(peer.get("status", {}).get("state") == "training" for peer in running):
                say(f"{len(running)} peers train; see 'gossip-caffe cluster status --name {state.name}'")
                return
        time.sleep(0.3)
    raise GossipCaffeError(
        f"the peers do not train after {READY_DEADLINE_S:.0f} s; they were left running",
        remedy=f"see {log.parent}; 'gossip-caffe cluster down --name {state.name}' ends them",
    )


def _pass_on(code: int, words: list[str]) -> None:
    """Repeat the last line of a supervisor that has ended. Raises an error with its exit code unless that is 0."""
    last = words[-1].removeprefix("gossip-caffe: ") if words else ""
    if code == 0:
        say(last or "the cluster has ended")
        return
    error = GossipCaffeError(last or f"the supervisor ended with exit code {code}")
    error.exit_code = ExitCode(code) if code in set(ExitCode) else ExitCode.FAILED
    raise error
