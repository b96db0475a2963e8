"""``gossip-caffe logs``: print what peers of this machine have printed, or their event logs."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import json
import time
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gossip_caffe.cli.commands.cluster import name_option
from gossip_caffe.cli.terminal.streams import reader_is_gone, say
from gossip_caffe.errors import NotFound, UsageError

if TYPE_CHECKING:
    from gossip_caffe.cluster.state.folder import ClusterState

LOOK_EVERY_S = 0.2
ASK_EVERY_S = 2.0
"""Seconds between two questions whether the cluster is still up."""
OUTPUT, CAFFE, JSON = "output", "caffe", "json"

Lines = Callable[[], Iterable[str]]
"""The lines since the last call."""


@click.command()
@click.argument("peer", default="")
@click.option(
    "-f", "--follow", is_flag=True, help="Print new lines as they come, until the run ends or Ctrl-C."
)
@click.option(
    "--format",
    "form",
    type=click.Choice([OUTPUT, CAFFE, JSON]),
    default=OUTPUT,
    show_default=True,
    help="'output': the lines that PEER printed. 'caffe': the run as 'caffe train' logs it, for tools that read such "
    "logs. 'json': the events.",
)
@click.option("--job", default="", help="Of event logs of several jobs: this one.  [default: the newest]")
@click.option(
    "--run-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="The run folder of 'peer start', instead of a local cluster.",
)
@name_option
def logs(peer: str, follow: bool, form: str, job: str, run_dir: Path | None, name: str) -> None:
    """Print the log of PEER on this machine; of all peers in the formats 'caffe' and 'json' without PEER.

    'caffe' has a row for each 'display' and each test: of several peers, that of the first one that reaches it.

    \b
    gossip-caffe logs p0 -f
    gossip-caffe logs --format caffe > train.log
    gossip-caffe logs p-3fa9c1 --run-dir gossip-caffe-run --format json
    """
    from gossip_caffe.cluster.state.folder import ClusterState

    state = None if run_dir is not None else ClusterState(name)
    if form == OUTPUT:
        if state is None:
            raise UsageError(
                "peers of 'peer start' print to their terminal and not to a file",
                remedy="give --format caffe or --format json, or --name of a local cluster",
            )
        new = _printed(state, peer)
    else:
        new = _from_events(run_dir if run_dir is not None else ClusterState(name).run, peer, job, form)
    print_lines(new, follow=follow, state=state)


def print_lines(new: Lines, *, follow: bool, state: ClusterState | None) -> None:
    """Print the lines, and with ``follow`` those that come, until the reader or the cluster has gone."""
    quiet_since, ended = time.monotonic(), not follow
    try:
        while not reader_is_gone():
            for line in new():
                say(line)
                quiet_since = time.monotonic()
            if ended:
                return
            time.sleep(LOOK_EVERY_S)
            if state is not None and time.monotonic() - quiet_since > ASK_EVERY_S:
                quiet_since = time.monotonic()
                ended = not _is_up(state)  # one more look then prints its last lines
    except KeyboardInterrupt:
        if not follow:
            raise


def _is_up(state: ClusterState) -> bool:
    from gossip_caffe.cluster.supervision.control import ask

    try:
        ask(state, {"do": "status"})
    except NotFound:
        return False
    return True


def _printed(state: ClusterState, peer: str) -> Lines:
    """The output of one process of a cluster. Raises NotFound or UsageError when there is none, or none is named."""
    folder = state.folder / "logs"
    known = sorted(path.stem for path in folder.glob("*.log"))
    if not known:
        raise NotFound(
            f"there is no log in {folder}",
            remedy="start a cluster with 'gossip-caffe cluster up', or give --name or --run-dir",
        )
    if not peer:
        raise UsageError("the output of which peer?", remedy=f"name one: {', '.join(known)}")
    if peer not in known:
        raise NotFound(f"there is no log of {peer} in {folder}", remedy=f"name one of {', '.join(known)}")
    file = (folder / f"{peer}.log").open("rb")
    rest = b""

    def new() -> Iterator[str]:
        nonlocal rest
        *whole, rest = (rest + file.read()).split(b"\n")
        yield from (line.decode(errors="replace") for line in whole)

    return new


def _from_events(run_dir: Path, peer: str, job: str, form: str) -> Lines:
    """The lines that are made from event logs. Raises NotFound when there are none."""
    from gossip_caffe.observe.export.caffe_lines import KINDS, CaffeLog
    from gossip_caffe.observe.log.events import Event
    from gossip_caffe.observe.log.following import LogFollower
    from gossip_caffe.observe.log.of_one_job import OfOneJob

    folder = event_folder(run_dir, peer)
    kinds: Container[str] = KINDS if form == CAFFE else frozenset(Event)
    follower = LogFollower(folder, kinds)
    caffe, of_job = CaffeLog(), OfOneJob(job)

    def new() -> Iterator[str]:
        for event in of_job.only(follower.new()):
            if peer in {"", event.get("peer")}:
                yield from (
                    caffe.lines(event) if form == CAFFE else (json.dumps(event, separators=(",", ":")),)
                )

    return new


def event_folder(run_dir: Path, peer: str) -> Path:
    """Return the folder of the event logs. Raises NotFound when there are none, or none of ``peer`` ("": any)."""
    from gossip_caffe.observe.log.parts import peers_in

    folder = run_dir / "events"
    known = peers_in(folder)
    if not known or (peer and peer not in known):
        whose = f"no event log of {peer}" if known else "no event log"
        raise NotFound(
            f"there is {whose} in {folder}",
            remedy=f"name one of {', '.join(known)}"
            if known
            else "give --name of a cluster, or --run-dir of peers",
        )
    return folder
