"""Views without a screen: a table that is printed once, lines for a pipe, JSON for programs."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from typing import Any

from gossip_caffe.cli.terminal.output import print_json, print_table
from gossip_caffe.cli.terminal.streams import reader_is_gone, say
from gossip_caffe.cli.top.watching import Watching
from gossip_caffe.observe.views.rows import Order, table
from gossip_caffe.observe.views.watched import Watched
from gossip_caffe.observe.views.words import figures, happened, headline
from gossip_caffe.printable import json_text

HEADLINE_EVERY_S = 5.0
WIDE = 10_000
"""A pipe has no width: all columns are printed."""


def print_snapshot(watched: Watched) -> None:
    """Print the table of a job, its headline above it, and a line for each trouble below it."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE
    shown = table(watched, Order(), width)
    if shown.peers:
        print_table(shown.headings, shown.rows, f"{headline(watched.snapshot)}; {figures(watched)}")
    else:
        say(headline(watched.snapshot))
    for line in troubles(watched):
        say(line)


def troubles(watched: Watched) -> list[str]:
    """Return one line, with the remedy, for each trouble that a peer or etcd reports."""
    snapshot = watched.snapshot
    found = dict.fromkeys(status.trouble for status in snapshot.statuses if status.trouble)
    is_open = ", ".join(peer.peer for peer in snapshot.peers if peer.insecure)
    if is_open:
        found[f"--insecure: every program that reaches {is_open} can read and change the weights"] = None
    return [*found, *([snapshot.refuses] if snapshot.refuses else [])]


def print_record(watched: Watched) -> None:
    """Print a snapshot as one JSON document."""
    print_json(watched.snapshot.to_record())


async def follow_as_lines(watching: Watching) -> None:
    """Print what changes, and the progress every HEADLINE_EVERY_S, until the job is finished or the reader has gone."""
    due = float("-inf")
    while not reader_is_gone():
        watched = watching.watched
        now = watching.clock.monotonic()
        if now >= due:
            due = now + HEADLINE_EVERY_S
            say(f"{headline(watched.snapshot)}; {figures(watched)}")
        for entry in watched.happenings:
            say(happened(entry))
        if watched.snapshot.finished:
            return
        watching.watched = replace(watched, happenings=())  # they are printed, and needed no more
        await watching.clock.sleep(watching.pause_s)
        await watching.look()


async def follow_as_json(watching: Watching) -> None:
    """Print a JSON object a line for each look, until the job is finished or the reader has gone."""
    while not reader_is_gone():
        watched = watching.watched
        record: dict[str, Any] = {**watched.snapshot.to_record(), "etcd_away": watched.away}
        say(json_text(record, separators=(",", ":"), sort_keys=True))
        if watched.snapshot.finished:
            return
        await watching.clock.sleep(watching.pause_s)
        await watching.look()
