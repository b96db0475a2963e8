"""``gossip-caffe simulate``: run whole jobs on virtual time, with faults, and check every invariant."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossip_caffe.cli.commands.verify import print_verdict
from gossip_caffe.cli.terminal.output import print_json
from gossip_caffe.cli.terminal.streams import say
from gossip_caffe.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gossip_caffe.sim.faults.faults import Fault, Kind
    from gossip_caffe.sim.simulation import Plan, SimulationResult

STUCK_S = 300.0
"""A seed that takes longer, in real seconds, counts as stuck: no seed needs that long."""
TELL_EVERY = 50
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class SeedRun:
    """One seed to be simulated; it can be sent to another process."""

    kinds: tuple[Kind, ...]
    peers: int
    seed: int
    for_s: float
    every: float
    strategy: str = "pairs"

    @property
    def plan(self) -> Plan:
        """The plan of this seed: peers and faults."""
        from gossip_caffe.sim.simulation import planned

        plan = planned(self.kinds, peers=self.peers, seed=self.seed, for_s=self.for_s, every=self.every)
        return replace(plan, settings=replace(plan.settings, strategy=self.strategy))


@click.command()
@click.option(
    "--peers", default=16, type=click.IntRange(1, 5000), show_default=True, help="The number of peers."
)
@click.option("--seed", default=1, type=click.IntRange(0), show_default=True, help="Decides the whole run.")
@click.option(
    "--seeds", default=1, type=click.IntRange(1), help="The number of seeds to run, from --seed on."
)
@click.option(
    "--faults",
    default="all",
    show_default=True,
    help="Kinds of faults, with commas; all (but etcd-back); none.",
)
@click.option(
    "--for", "for_", default="24s", show_default=True, help="The virtual time, roughly: 90s, 10m, 2h."
)
@click.option(
    "--every",
    default=0.5,
    type=click.FloatRange(0.01),
    show_default=True,
    help="A factor on the time between faults. Churn stays one a minute.",
)
@click.option(
    "--strategy",
    default="pairs",
    show_default=True,
    type=click.Choice(["pairs", "sync"]),
    help="How the peers share what they learn.",
)
@click.option(
    "--jobs",
    default=0,
    type=click.IntRange(0),
    help="The number of processes for many seeds. [default: one a core]",
)
@click.option(
    "--schedule",
    default="",
    metavar="FILE",
    help="Inject the faults of this schedule.json, instead of random ones.",
)
@click.option(
    "--shrink", is_flag=True, help="Reduce the faults of a failing seed to the fewest that still fail."
)
@click.option("--out", default="", metavar="DIR", help="Write the history to this folder, with its report.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def simulate(
    peers: int,
    seed: int,
    seeds: int,
    faults: str,
    for_: str,
    every: float,
    strategy: str,
    jobs: int,
    schedule: str,
    shrink: bool,
    out: str,
    as_json: bool,
) -> None:
    """Train a small job with the real agents on virtual time, inject faults, and check every invariant.

    One seed gives one history, byte for byte; its digest is printed. Exit code 1: an invariant is broken, or the job
    did not finish.

    \b
    gossip-caffe simulate --peers 64 --seed 7 --faults kill,partition,freeze --for 2h
    gossip-caffe simulate --peers 8 --for 170s --faults churn --out churned
    gossip-caffe simulate --seeds 500
    gossip-caffe simulate --seed 17 --shrink --out failing
    """
    from gossip_caffe.sim.faults.faults import kinds_of

    kinds = kinds_of(faults)
    runs = [
        SeedRun(kinds, peers, number, seconds_of(for_), every, strategy)
        for number in range(seed, seed + seeds)
    ]
    if seeds > 1:
        if shrink or out or schedule:
            raise UsageError("--shrink, --out and --schedule go with one seed", remedy="leave --seeds out")
        failed = _many(runs, jobs or os.cpu_count() or 1, as_json)
    else:
        failed = _one(runs[0], schedule, shrink, out, as_json)
    if failed:
        sys.exit(int(ExitCode.FAILED))


def seconds_of(text: str) -> float:
    """Read "90s", "10m" or "2h", and return seconds. Raises UsageError for other text."""
    try:
        seconds = float(text[:-1]) * _UNITS[text[-1:]]
    except (ValueError, KeyError):
        seconds = 0.0
    if seconds <= 0:
        raise UsageError(f"--for {text}: not a length of time", remedy="give for example 90s, 10m or 2h")
    return seconds


def _one(seed_run: SeedRun, schedule: str, shrink: bool, out: str, as_json: bool) -> bool:
    from gossip_caffe.sim.faults.faults import described
    from gossip_caffe.sim.simulation import simulate as run

    plan = seed_run.plan
    if schedule:
        plan = replace(plan, schedule=_read_schedule(Path(schedule)))
    began = time.monotonic()
    found = run(plan)
    if shrink and found.failures:
        found = _shrunk(plan, found)
    if out:
        found.write(Path(out))
    if as_json:
        print_json({**_record(found), "verdict": found.verdict.to_record()})
        return bool(found.failures)
    print_verdict(found.verdict)
    say(f"faults ({len(found.plan.schedule)}):")
    for line in described(found.plan.schedule):
        say(line)
    say(_line_of(_record(found)) + f", in {time.monotonic() - began:.1f} s")
    for failure in found.failures:
        say(f"FAILED: {failure}")
    return bool(found.failures)


def _shrunk(plan: Plan, found: SimulationResult) -> SimulationResult:
    """Run the seed again with fewer and fewer faults. Returns the smallest run that fails in the same way."""
    from gossip_caffe.sim.shrinking import shrunk
    from gossip_caffe.sim.simulation import simulate as run

    wanted = {failure.partition(":")[0] for failure in found.failures}
    newest = found

    def fails(schedule: Sequence[Fault]) -> bool:
        nonlocal newest
        tried = run(replace(plan, schedule=tuple(schedule)))
        failed = bool(wanted & {failure.partition(":")[0] for failure in tried.failures})
        say(f"{len(schedule)} faults: {'fails' if failed else 'holds'}", err=True)
        newest = tried if failed else newest
        return failed

    shrunk(plan.schedule, fails)
    return newest


def _read_schedule(path: Path) -> tuple[Fault, ...]:
    from gossip_caffe.sim.faults.faults import Fault

    try:
        return tuple(Fault.from_record(record) for record in json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"--schedule {path}: {error}", remedy="give a schedule.json of --out") from None


def _record(found: SimulationResult) -> dict[str, Any]:
    return {
        "seed": found.plan.seed,
        "peers": found.plan.peers,
        "digest": found.digest,
        "finished": found.finished,
        "virtual_s": round(found.lasted_s, 3),
        "accuracy": round(found.accuracy, 4),
        "distance": max((distance for _, distance, _ in found.distances), default=0.0),
        "distance_later": max(_later(found), default=0.0),
        "faults": len(found.plan.schedule),
        "kills": found.verdict.counters.kills,
        "records_lost": found.verdict.counters.records_lost,
        "records_twice": found.verdict.counters.records_twice,
        "resumes": found.verdict.counters.resumes,
        "failures": list(found.failures),
    }


def _later(found: SimulationResult) -> list[float]:
    """Return the consensus distances in the second half of a run."""
    return [distance for at_s, distance, _ in found.distances if at_s > found.lasted_s / 2]


def _distance_of(record: dict[str, Any]) -> str:
    """Describe the consensus distance; empty when the seed was stuck."""
    if "distance_later" not in record:
        return ""
    return f"distance at most {record['distance']:.1e}, {record['distance_later']:.1e} in the second half, "


def _line_of(record: dict[str, Any]) -> str:
    return (
        f"seed {record['seed']}: {record['peers']} peers, {record['virtual_s']:,.0f} s, {record['faults']} faults, "
        f"{record['kills']} killed, lost {record['records_lost']}, accuracy {record['accuracy']:.1%}, "
        f"{_distance_of(record)}"
        f"history {record['digest'][:16]}"
    )


def _try(seed_run: SeedRun) -> dict[str, Any]:
    from gossip_caffe.sim.simulation import simulate as run

    signal.signal(signal.SIGALRM, _stuck)
    signal.setitimer(signal.ITIMER_REAL, STUCK_S, STUCK_S)
    try:
        return _record(run(seed_run.plan))
    except Stuck as stuck:
        blank = dict.fromkeys(("faults", "kills", "records_twice", "resumes", "virtual_s", "accuracy"), 0)
        failures = {
            "failures": [f"no end within {STUCK_S:.0f} s of real time"],
            "digest": "",
            "records_lost": None,
        }
        return {**blank, **failures, "seed": seed_run.seed, "peers": seed_run.peers, "why": str(stuck)}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class Stuck(SystemExit):
    """Raised in a simulated job that takes longer than STUCK_S of real time."""


def _stuck(number: int, frame: object) -> None:
    del frame
    raise Stuck(number)


@contextmanager
def _pool(jobs: int) -> Iterator[Any]:
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=50) as pool:
        yield pool


def _many(runs: list[SeedRun], jobs: int, as_json: bool) -> bool:
    """Simulate all seeds; print those that fail, and the totals. Returns True if any failed."""
    began = time.monotonic()
    records: list[dict[str, Any]] = []
    with _pool(jobs) as pool:
        for record in pool.imap_unordered(_try, runs):
            records.append(record)
            if len(records) % TELL_EVERY == 0:
                say(f"{len(records)} of {len(runs)} seeds after {time.monotonic() - began:.0f} s", err=True)
            if record["failures"] and not as_json:
                say(_line_of(record))
                for failure in record["failures"]:
                    say(f"  FAILED: {failure}")
    records.sort(key=lambda record: int(record["seed"]))
    failed = [record for record in records if record["failures"]]
    result = {
        "seeds": len(records),
        "peers": runs[0].peers,
        "failed": [record["seed"] for record in failed],
        "kills": sum(record["kills"] for record in records),
        "faults": sum(record["faults"] for record in records),
        "resumes": sum(record["resumes"] for record in records),
        "records_lost": sum(record["records_lost"] or 0 for record in records),
        "accuracy_least": min(record["accuracy"] for record in records),
        "virtual_s": round(sum(record["virtual_s"] for record in records)),
        "seconds": round(time.monotonic() - began, 1),
    }
    if as_json:
        print_json({**result, "records": records})
        return bool(failed)
    say(
        f"{result['seeds']} seeds: {len(failed)} failed; {result['faults']:,} faults, {result['kills']:,} peers "
        f"killed, {result['resumes']} times all of them, {result['records_lost']} records lost, least accuracy "
        f"{result['accuracy_least']:.1%}; {result['virtual_s']:,} virtual seconds in {result['seconds']} s"
    )
    return bool(failed)
