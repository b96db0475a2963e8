"""``gossip-caffe events``: print the events of the peers of this machine."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import datetime
import json
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from gossip_caffe.cli.commands.cluster import name_option
from gossip_caffe.cli.commands.views.logs import event_folder, print_lines

_AGO = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd])")
_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Since(click.ParamType[float]):
    """A time: "10m" ago, "15:30" of today, or "2026-11-30 15:30". Its value is in seconds since 1970."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse a time; click reports one that is none."""
        if isinstance(value, float):
            return value
        if found := _AGO.fullmatch(value.strip()):
            return time.time() - float(found[1]) * _UNITS_S[found[2]]
        today = datetime.datetime.now().astimezone()
        for text in (value.strip(), f"{today:%Y-%m-%d} {value.strip()}"):
            try:
                return datetime.datetime.fromisoformat(text).timestamp()
            except (ValueError, OverflowError):
                continue
        return self.fail(f"{value!r} is no time: write 10m, 2h, 15:30 or 2026-11-30T15:30", param, ctx)


@click.command()
@click.argument("peer", default="")
@click.option(
    "-f", "--follow", is_flag=True, help="Print new events as they come, until the run ends or Ctrl-C."
)
@click.option(
    "--since",
    type=Since(),
    default=0.0,
    metavar="TIME",
    help="Only events since then: 10m (ago), 15:30 (today), 2026-11-30T15:30.  [default: all]",
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    metavar="EVENT",
    help="Only events of this kind, for example solver-died; may be given several times. Default: all but those of "
    "every batch, chunk and exchange; 'all' for these, too.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the events as JSON, one a line.")
@click.option("--job", default="", help="Of event logs of several jobs: this one.  [default: the newest]")
@click.option(
    "--run-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="The run folder of 'peer start', instead of a local cluster.",
)
@name_option
def events(
    peer: str,
    follow: bool,
    since: float,
    kinds: tuple[str, ...],
    as_json: bool,
    job: str,
    run_dir: Path | None,
    name: str,
) -> None:
    """Print the events of the peers of this machine, or of PEER: joins, tests, checkpoints, deaths, and more.

    The events come from the event logs of a local cluster, or of --run-dir, in the order of their times. The kinds are
    in docs/internals/events.md.

    \b
    gossip-caffe events --since 10m
    gossip-caffe events p0 --follow
    gossip-caffe events --kind solver-died --kind lease-lost --json
    """
    from gossip_caffe.cluster.state.folder import ClusterState
    from gossip_caffe.observe.log.events import Event
    from gossip_caffe.observe.log.following import LogFollower
    from gossip_caffe.observe.log.of_one_job import OfOneJob
    from gossip_caffe.observe.views.event_words import NOTABLE, line_of

    wanted = frozenset(kinds) or NOTABLE
    if "all" in wanted:
        wanted = frozenset(Event)
    if unknown := sorted(wanted - set(Event)):
        raise click.UsageError(f"there is no event {unknown[0]!r}; there are {', '.join(Event)}")
    state = None if run_dir is not None else ClusterState(name)
    folder = event_folder(run_dir if run_dir is not None else ClusterState(name).run, peer)
    follower = LogFollower(folder, wanted | {Event.STARTED}, 0.0 if job else since)
    of_job = OfOneJob(job)

    def new() -> Iterable[str]:
        for event in of_job.only(follower.new()):
            told = peer in {"", event.get("peer")} and event["event"] in wanted and _time_of(event) >= since
            if told:
                yield json.dumps(event, separators=(",", ":")) if as_json else line_of(event)

    print_lines(new, follow=follow, state=state)


def _time_of(event: dict[str, Any]) -> float:
    at = event.get("t")
    return float(at) if isinstance(at, int | float) else 0.0
