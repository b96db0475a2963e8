"""The goodput of peers of which one is killed every 20 s and another started: new samples over those possible.

    python benchmarks/goodput.py [--peers 4] [--minutes 3] [--every 20] [--net lenet]
                                 [--torchrun /venv/with/torch/bin/torchrun]

The figures tell what is lost by its kind (docs/internals/verify.md). torchrun, with the same deaths in the same run,
is taken to lose only the time in which its workers make no step: it is given a checkpoint at each death for nothing.
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
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median

from _fleet import JOB, Torchrun, training_fleet, wait_for
from _models import MODELS

from gossip_caffe.job.spec.spec import JobSettings
from gossip_caffe.observe.checker.goodput import Goodput
from gossip_caffe.observe.checker.verdict import Verdict, verdict_of
from gossip_caffe.observe.history.run import OBSERVER


def kill_by_turns(seconds: float, every_s: float, kill: Callable[[random.Random], None]) -> int:
    """Call ``kill`` every ``every_s`` seconds for ``seconds``; returns how often."""
    began, rng = time.monotonic(), random.Random(1)
    for count in itertools.count(1):
        at = began + count * every_s
        if at >= began + seconds:
            time.sleep(max(0.0, began + seconds - time.monotonic()))
            return count - 1
        time.sleep(max(0.0, at - time.monotonic()))
        kill(rng)
    raise AssertionError


def of_peers(net: str, peers: int, seconds: float, every_s: float) -> tuple[Verdict, int]:
    """The verdict on a run with so many deaths, and their number."""
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-goodput-") as name:
        folder = Path(name)
        with (
            training_fleet(net, peers, JobSettings(), folder) as fleet,
            (folder / OBSERVER).open("a") as seen,
        ):

            def kill(rng: random.Random) -> None:
                victim = rng.choice(fleet.living)
                fleet.processes[victim].send_signal(signal.SIGKILL)
                line = {"t": time.time(), "event": "fault", "fault": "kill", "peer": victim}
                print(json.dumps(line), file=seen, flush=True)
                fleet.processes[victim].wait()
                fleet.start()

            kills = kill_by_turns(seconds, every_s, kill)
        return verdict_of(folder, job=JOB), kills


def of_torchrun(torchrun: str, workers: int, seconds: float, every_s: float) -> float:
    """The share of the time of an elastic PyTorch job in which its workers make steps."""
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-torchrun-") as name:
        other, ranks = Torchrun(torchrun, workers, Path(name) / "run"), range(workers)
        other.start(restarts=round(seconds / every_s) + 1)
        try:
            wait_for("torchrun's workers train", lambda: all(len(other.steps(rank)) > 20 for rank in ranks))
            began = time.monotonic()

            def kill(rng: random.Random) -> None:
                os.kill(other.pids(rng.choice(ranks))[-1], signal.SIGKILL)

            kill_by_turns(seconds, every_s, kill)
            ended = time.monotonic()
        finally:
            other.stop()
        return median(stepping_share(other.steps(rank), began, ended) for rank in ranks)


def stepping_share(steps: list[float], began: float, ended: float) -> float:
    """The share of a time that the steps in it take, each as long as the median of all."""
    within = [at for at in steps if began <= at <= ended]
    usual_s = median(later - earlier for earlier, later in itertools.pairwise(within))
    return min(1.0, len(within) * usual_s / (ended - began))


def figures_of(found: Goodput) -> dict[str, float]:
    """``goodput``, and what is lost of it by kind."""
    said = {name if name == "share" else f"lost_{name}": value for name, value in asdict(found).items()}
    return {name.replace("share", "goodput"): round(value, 4) for name, value in said.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--every", type=float, default=20.0, help="seconds from one death to the next")
    parser.add_argument("--net", default="lenet", choices=sorted(MODELS))
    parser.add_argument("--torchrun", default="", help="the torchrun of a Python that has torch")
    options = parser.parse_args()
    found, kills = of_peers(options.net, options.peers, options.minutes * 60, options.every)
    if found.counters.goodput is None:
        print("no peer told its pace", file=sys.stderr)
        return 1
    broken = [finding.invariant for finding in found.broken]
    figures: dict[str, float] = {**figures_of(found.counters.goodput), "kills": kills, "broken": len(broken)}
    for name, value in figures.items():
        print(f"{name:>14} {value:g}")
    if options.torchrun:
        seconds = options.minutes * 60
        figures["torchrun_goodput"] = round(
            of_torchrun(options.torchrun, options.peers, seconds, options.every), 4
        )
        print(f"  torchrun: {figures['torchrun_goodput']:g}")
    else:
        print("  torchrun: give --torchrun to measure it too")
    print(f"RESULT {json.dumps(figures)}")
    if broken:
        print(f"broken: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
