"""``gossip-caffe doctor``: whether everything is here that a peer needs."""

# ruff: noqa: PLC0415 - what is heavy is imported by the command that needs it, so that --help and completion are quick

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import sys
from dataclasses import asdict, dataclass

import click

from gossip_caffe.cli.output import print_json, print_table
from gossip_caffe.errors import ExitCode, GossipCaffeError


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``needed``: a peer cannot run without it."""

    what: str
    good: bool
    needed: bool
    found: str
    remedy: str = ""


def findings() -> list[Finding]:
    """Look at everything."""
    from gossip_caffe.cluster.etcd_server import find_etcd
    from gossip_caffe.solver.probe import probe

    found = [
        Finding(
            "Python", sys.version_info >= (3, 11), True, platform.python_version(), "use Python 3.11 or newer"
        )
    ]
    caffe = probe()
    what = f"{caffe.path} ({caffe.version}, {caffe.layers} layer types{', with our extension' * caffe.extension})"
    found.append(Finding("pycaffe", not caffe.problem, True, caffe.problem or what, "run 'make pycaffe'"))
    found += gpu_findings()
    try:
        found.append(Finding("etcd", True, False, str(find_etcd())))
    except GossipCaffeError as error:
        found.append(Finding("etcd", False, False, error.message, error.remedy))
    linux = all(hasattr(os, name) for name in ("memfd_create", "eventfd", "pidfd_open"))
    kernel = f"Linux {platform.release()}" if linux else platform.platform()
    found.append(Finding("memfd, eventfd, pidfd", linux, True, kernel, "use Linux 5.4 or newer"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found.append(Finding("machine", True, False, f"{os.cpu_count()} cores, {memory:.1f} GiB of memory"))
    return found


def gpu_findings() -> list[Finding]:
    """Look at the cards, and at what makes them quick; a peer can do without any of it."""
    from gossip_caffe.solver.card_trial import look_at_cards
    from gossip_caffe.solver.cards import refusal

    try:
        cards = asyncio.run(look_at_cards())
    except GossipCaffeError as error:
        return [Finding("GPU", False, False, error.message, error.remedy)]
    if (problem := refusal(cards)) is not None:
        return [Finding("GPU", False, False, problem.message, problem.remedy)]
    found = [Finding("GPU", True, False, card.words()) for card in cards.cards]
    if cards.no_cudnn:
        found.append(Finding("cuDNN", False, False, "Caffe's own kernels are used", cards.no_cudnn))
    for module, use in (("cupy", "quick snapshots on a card"), ("pynvml", "a card's memory in the status")):
        there = importlib.util.find_spec(module) is not None
        found.append(Finding(module, there, False, use if there else f"no {use}", "see docs/gpu.md"))
    return found


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Say what this machine has for training, and what to do about what it lacks.

    Exit code 6: something is missing that every peer needs.

    \b
    gossip-caffe doctor --json
    """
    found = findings()
    if as_json:
        print_json([asdict(finding) for finding in found])
    else:
        rows = [
            (
                entry.what,
                "ok" if entry.good else "MISSING" if entry.needed else "absent",
                entry.found,
                "" if entry.good else entry.remedy,
            )
            for entry in found
        ]
        print_table(("WHAT", "", "FOUND", "WHAT TO DO"), rows)
    if any(entry.needed and not entry.good for entry in found):
        sys.exit(int(ExitCode.ENVIRONMENT))
