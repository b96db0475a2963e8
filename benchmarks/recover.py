"""What a death and a join cost: one of four peers is killed, and another one is started, while they train.

    python benchmarks/recover.py [--peers 4] [--repeats 3] [--net lenet] [--strategies pairs,sync]
                                 [--torchrun /venv/with/torch/bin/torchrun]

Survivors are to train on as if nothing had happened, so what is measured is the longest pause between two steps of
any of them after the kill, beside the longest in as much time before it. In rounds (sync) they wait for each other.
docs/internals/benchmarks.md says what each figure means.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from _fleet import Fleet, Torchrun, training_fleet, wait_for
from _models import MODELS

from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.observe.log.events import Event

AFTER_S = 10.0
"""How long is watched before a kill, and after it: the lease of five seconds ends, and the work is taken over."""


def longest_gap_s(steps: list[float], begin: float, end: float) -> float:
    """The longest time without a step between two moments."""
    times = [begin, *(at for at in steps if begin < at < end), end]
    return max(later - earlier for earlier, later in itertools.pairwise(times))


@dataclass(frozen=True, slots=True)
class Death:
    """Seconds. ``reclaimed_s``: from the kill until the last of what the dead peer owned was claimed again."""

    gap_before_s: float
    gap_s: float
    reclaimed_s: float


def kill(fleet: Fleet, rng: random.Random) -> Death:
    time.sleep(AFTER_S)
    victim = rng.choice(fleet.living)
    at = time.monotonic()
    fleet.processes[victim].send_signal(signal.SIGKILL)
    fleet.processes[victim].wait()
    time.sleep(AFTER_S)
    survivors = {name: fleet.steps(name) for name in fleet.living}
    lost = fleet.in_flight(victim)
    claims = [
        (when, (entry["epoch"], chunk))
        for name in survivors
        for when, entry in fleet.events(name, Event.CLAIMED)
        for chunk in entry["chunks"]
        if when > at
    ]
    return Death(
        max(longest_gap_s(steps, at - AFTER_S, at) for steps in survivors.values()),
        max(longest_gap_s(steps, at, at + AFTER_S) for steps in survivors.values()),
        max((when - at for when, chunk in claims if chunk in lost), default=0.0),
    )


def join(fleet: Fleet) -> float:
    """Seconds from the start of one more peer to its first step."""
    began = time.monotonic()
    name = fleet.start()
    wait_for(f"{name} trains", lambda: bool(fleet.steps(name)))
    return fleet.steps(name)[0] - began


def torchrun_stopped_s(torchrun: str, workers: int, rng: random.Random, folder: Path) -> float:
    """Seconds without a step of anybody's after one of the workers of an elastic PyTorch job is killed."""
    ranks, other = range(workers), Torchrun(torchrun, workers, folder)
    other.start()
    try:
        wait_for("torchrun's workers train", lambda: all(len(other.steps(rank)) > 20 for rank in ranks))
        at = time.monotonic()
        os.kill(other.pids(rng.choice(ranks))[-1], signal.SIGKILL)
        wait_for(
            "they train again",
            lambda: all(len(other.pids(rank)) > 1 and other.steps(rank)[-1] > at + 1.0 for rank in ranks),
        )
        time.sleep(2.0)
        return max(longest_gap_s(steps, at, max(steps)) for steps in map(other.steps, ranks))
    finally:
        other.stop()


@dataclass(frozen=True, slots=True)
class Recovery:
    """The deaths, and the seconds of the joins, of peers of one strategy."""

    deaths: list[Death]
    joins: list[float]

    def figures(self, prefix: str) -> dict[str, float]:
        """The medians."""
        deaths = self.deaths
        found = {
            "stopped_s": median(max(0.0, death.gap_s - death.gap_before_s) for death in deaths),
            "longest_gap_before_s": median(death.gap_before_s for death in deaths),
            "longest_gap_after_s": median(death.gap_s for death in deaths),
            "reclaimed_s": median(death.reclaimed_s for death in deaths),
            "first_step_s": median(self.joins),
        }
        return {f"{prefix}{name}": round(value, 3) for name, value in found.items()}


def recovered(strategy: str, net: str, peers: int, repeats: int) -> Recovery:
    """Kill a peer and start another, so many times."""
    found = Recovery([], [])
    with (
        tempfile.TemporaryDirectory(prefix="gossip-caffe-recover-") as name,
        training_fleet(net, peers, JobSettings(strategy=strategy), Path(name)) as fleet,
    ):
        print(f"{strategy:>10} {'gap before':>12} {'gap after':>12} {'re-claimed':>12} {'joined':>12}   (s)")
        for repeat in range(repeats):
            found.deaths.append(death := kill(fleet, random.Random(repeat)))
            found.joins.append(join(fleet))
            print(
                f"{repeat:>10} {death.gap_before_s:>12.3f} {death.gap_s:>12.3f}"
                f" {death.reclaimed_s:>12.2f} {found.joins[-1]:>12.2f}",
                flush=True,
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--net", default="lenet", choices=sorted(MODELS))
    parser.add_argument("--strategies", default="pairs,sync", help="with commas")
    parser.add_argument("--torchrun", default="", help="the torchrun of a Python that has torch")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    for strategy in options.strategies.split(","):
        recovery = recovered(strategy, options.net, options.peers, options.repeats)
        figures |= recovery.figures("" if strategy == "pairs" else f"{strategy}_")
    torchrun = []
    if options.torchrun:
        with tempfile.TemporaryDirectory(prefix="gossip-caffe-torchrun-") as name:
            for repeat in range(options.repeats):
                folder = Path(name) / str(repeat)
                torchrun.append(
                    torchrun_stopped_s(options.torchrun, options.peers, random.Random(repeat), folder)
                )
                print(f"{repeat:>10} torchrun stood still for {torchrun[-1]:.2f} s", flush=True)
    else:
        print("  torchrun: give --torchrun to measure it too")
    if torchrun:
        figures["torchrun_stopped_s"] = round(median(torchrun), 3)
    print(f"RESULT {json.dumps(figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
