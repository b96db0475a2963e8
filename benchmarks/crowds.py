"""The cost of crowds and slow callers to honest peers: exchanges, checkpoints, memory, and the time of a join.

    python benchmarks/crowds.py [--parts slow,pulls,snapshots,idle] [--seconds 60] [--repeats 2]

Four parts, all with real sockets, and all but the second with real peers: slow offers at three peers; two hundred
joiners that pull one checkpoint; two hundred calls for the weights of which nothing is read; five hundred idle
connections on each port of a peer that may open 1,024 files. docs/internals/benchmarks.md says what each figure means.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

from _crowd_idle import measure_idle
from _crowd_pulls import measure_pulls
from _crowd_slow import measure_slow
from _crowd_snapshots import measure_snapshots


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default="slow,pulls,snapshots,idle")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of each crowd of slow streams or of calls"
    )
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--callers", type=int, default=200, help="joiners that pull, and calls for weights")
    parser.add_argument("--megabytes", type=int, default=100, help="of the checkpoint that is pulled")
    parser.add_argument("--idle", type=int, default=500, help="connections on each port")
    options = parser.parse_args()
    parts: dict[str, Callable[[], dict[str, float]]] = {
        "slow": lambda: measure_slow(options.seconds, options.repeats),
        "pulls": lambda: measure_pulls(options.callers, options.megabytes, options.repeats),
        "snapshots": lambda: measure_snapshots(options.callers, options.seconds),
        "idle": lambda: measure_idle(options.idle, options.repeats),
    }
    figures: dict[str, float] = {}
    chosen = options.parts.split(",")
    if unknown := [name for name in chosen if name not in parts]:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(parts)}")
    for name in chosen:
        print(f"-- {name} --", flush=True)
        figures |= parts[name]()
    print(f"RESULT {json.dumps(figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
