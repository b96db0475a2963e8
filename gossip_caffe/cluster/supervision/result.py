"""The result of a local cluster's run: the model, or the reason why there is none."""

from __future__ import annotations

import signal
from pathlib import Path

from gossip_caffe.checkpoint.manifest import MODEL
from gossip_caffe.cluster.fleet.fleet import Fleet
from gossip_caffe.errors import ExitCode, GossipCaffeError


def none_left(fleet: Fleet, job: str, logs: Path) -> GossipCaffeError:
    """Make the error for an unfinished job without peers. The first peer that failed gives the reason."""
    ended = fleet.peers.values()
    failed = [peer for peer in ended if peer.code and peer.code > 0 and not peer.left]
    cause = fleet.cause(failed[0]) if failed else _how_all_were_ended(fleet)
    error = GossipCaffeError(f"no peer of job {job!r} is left: {cause}", remedy=f"see {logs}")
    if failed and failed[0].code in {int(code) for code in ExitCode}:
        error.exit_code = ExitCode(failed[0].code)
    elif not failed and ended and all(peer.left for peer in ended):
        error.exit_code = ExitCode.LEFT
    return error


def end_of_unfinished(reason: str) -> ExitCode:
    """Return the exit code of a cluster that goes down before its job is finished. ``reason``: of ``go_down``.

    Ctrl-C has a code of its own, because a person looks on: scripts and shells end at 130. Every other reason is a
    machine's, or comes from another terminal: LEFT tells a scheduler to start the command again.
    """
    return ExitCode.INTERRUPTED if reason == signal.SIGINT.name else ExitCode.LEFT


def _how_all_were_ended(fleet: Fleet) -> str:
    killed = [peer for peer in fleet.peers.values() if not peer.left and not peer.stopping]
    if not killed:
        return "all were asked to leave"
    causes = [cause for peer in killed if (cause := fleet.cause(peer))]
    return f"{killed[0].name} was {killed[0].how}" + (f": {causes[0]}" if causes else "")


def model_of(run: Path, checkpoint: str) -> str:
    """Return the path of a checkpoint's model in a run's folder; the checkpoint's name if it is elsewhere."""
    held = sorted((run / "checkpoints").glob(f"*/{checkpoint}/{MODEL}"))
    return str(held[0]) if held else f"checkpoint {checkpoint}"
