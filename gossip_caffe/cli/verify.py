"""``gossip-caffe verify``: what the event logs of a run prove."""

# ruff: noqa: PLC0415 - what is heavy is imported by the command that needs it, so that --help and completion are quick

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gossip_caffe.cli.output import print_json, print_table
from gossip_caffe.errors import ExitCode

if TYPE_CHECKING:
    from gossip_caffe.observe.verdict import Counters, Finding, Verdict

SHOWN_LINES = 12


@click.command()
@click.argument("run_dir", type=click.Path(file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(run_dir: Path, as_json: bool) -> None:
    """Check the event logs in RUN_DIR/events against every invariant.

    Each one holds, is broken (with the shortest slice of history that shows it), or cannot be seen in this run.
    It asks nobody, and changes nothing. Exit code 1: one is broken.

    \b
    gossip-caffe verify ~/.local/state/gossip-caffe/clusters/local/run
    gossip-caffe verify run --json
    """
    from gossip_caffe.observe.verdict import verdict_of

    found = verdict_of(run_dir)
    if as_json:
        print_json(found.to_record())
    else:
        print_verdict(found)
    if found.broken:
        sys.exit(int(ExitCode.FAILED))


def print_verdict(found: Verdict) -> None:
    """A table of the invariants, the histories that break them, and the figures."""
    rows = [(finding.invariant, finding.standing.value, finding.reason) for finding in found.findings]
    print_table(("INVARIANT", "", "WHY"), rows)
    for finding in found.broken:
        _print_history(finding)
    click.echo("\n".join(_figures(found.counters)))


def _print_history(finding: Finding) -> None:
    click.echo(f"\n{finding.invariant} is broken: {finding.reason} ({finding.violations:,} in all)")
    for line in finding.history[:SHOWN_LINES]:
        click.echo(f"  {json.dumps(line, separators=(',', ':'))[:400]}")
    if (more := len(finding.history) - SHOWN_LINES) > 0:
        click.echo(f"  … and {more:,} lines more")
    click.echo()


def _figures(counted: Counters) -> list[str]:
    return [f"{name}: {shown}" for name, shown in counted.words()]
