"""``gossip-caffe verify``: check the event logs of a run against every invariant."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gossip_caffe.cli.terminal.output import print_json, print_table
from gossip_caffe.cli.terminal.streams import say
from gossip_caffe.errors import ExitCode

if TYPE_CHECKING:
    from gossip_caffe.observe.checker.verdict import Finding, RunCounters, Verdict

SHOWN_LINES = 12


@click.command()
@click.argument("run_dir", type=click.Path(file_okay=False, path_type=Path))
@click.option("--job", default="", metavar="NAME", help="The job, where the logs hold several.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(run_dir: Path, job: str, as_json: bool) -> None:
    """Check the event logs in RUN_DIR/events against every invariant.

    Each invariant holds, is broken (the shortest slice of history that shows it is printed), or cannot be seen in
    this run, for example because a part of a log is missing. The command contacts no process and changes nothing.
    Exit code 1: an invariant is broken.

    \b
    gossip-caffe verify ~/.local/state/gossip-caffe/clusters/local/run
    gossip-caffe verify run --json
    """
    from gossip_caffe.observe.checker.verdict import verdict_of

    found = verdict_of(run_dir, job=job)
    if as_json:
        print_json(found.to_record())
    else:
        print_verdict(found)
    if found.broken:
        sys.exit(int(ExitCode.FAILED))


def print_verdict(found: Verdict) -> None:
    """Print a table of the invariants, the histories that break them, and the figures."""
    rows = [(finding.invariant, finding.standing.value, finding.reason) for finding in found.findings]
    print_table(("INVARIANT", "", "WHY"), rows)
    for missing in found.missing:
        say(missing)
    for finding in found.broken:
        _print_history(finding)
    for line in _figures(found.counters):
        say(line)


def _print_history(finding: Finding) -> None:
    say("")
    say(f"{finding.invariant} is broken: {finding.reason} ({finding.violations:,} in all)")
    for line in finding.history[:SHOWN_LINES]:
        say(f"  {json.dumps(line, separators=(',', ':'))[:400]}")
    if (more := len(finding.history) - SHOWN_LINES) > 0:
        say(f"  … and {more:,} lines more")
    say("")


def _figures(counted: RunCounters) -> list[str]:
    return [f"{name}: {shown}" for name, shown in counted.words()]
