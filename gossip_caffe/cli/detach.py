"""``cluster up --detach``: a supervisor in the background, which is left alone once its peers train."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gossip_caffe.cluster.view import headline
from gossip_caffe.errors import ExitCode, GossipCaffeError, NotFound

if TYPE_CHECKING:
    from gossip_caffe.cluster.state import ClusterState

READY_DEADLINE_S = 120.0


def run_detached(state: ClusterState, command: list[str]) -> None:
    """Run a supervisor in the background, and return when its peers train.

    Raises the error with which it ends before that.
    """
    log = state.log("supervisor")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    try:
        _wait_until_they_train(state, process, log)
    except KeyboardInterrupt:
        process.terminate()  # nobody has been told yet that it runs
        process.wait()
        raise


def _wait_until_they_train(state: ClusterState, process: subprocess.Popen[bytes], log: Path) -> None:
    from gossip_caffe.cluster.control import ask  # noqa: PLC0415 - --help must not wait for it

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
                click.echo(line)
            # Without a pid: a peer of another machine, or the record of one that was killed just now.
            running = [peer for peer in status["peers"] if peer["running"] and peer["pid"]]
            if running and all(peer.get("status", {}).get("state") == "training" for peer in running):
                click.echo(
                    f"{len(running)} peers train; see 'gossip-caffe cluster status --name {state.name}'"
                )
                return
        time.sleep(0.3)
    raise GossipCaffeError(
        f"the peers do not train after {READY_DEADLINE_S:.0f} s; they were left running",
        remedy=f"see {log.parent}, and 'gossip-caffe cluster down --name {state.name}' to end them",
    )


def _pass_on(code: int, words: list[str]) -> None:
    """What a supervisor that has ended already had to say, as if it were ours."""
    last = words[-1].removeprefix("gossip-caffe: ") if words else ""
    if code == 0:
        click.echo(last or "the cluster has ended")
        return
    error = GossipCaffeError(last or f"the supervisor ended with exit code {code}")
    error.exit_code = ExitCode(code) if code in set(ExitCode) else ExitCode.FAILED
    raise error
