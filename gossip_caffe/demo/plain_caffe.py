"""The main function of a child process that runs plain Caffe; its task is one JSON object.

{"solver": path, "iterations": n, "every": k}: it steps a solver, and prints {"iteration": i} every k iterations. Caffe
aborts the process on a mistake; the cause is on stderr then.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from gossip_caffe.begin import die_with_parent


def train(solver: str, iterations: int, every: int) -> None:
    """Train a solver file for ``iterations`` iterations; its snapshots go to its own snapshot_prefix."""
    import caffe  # noqa: PLC0415 - only in this process

    caffe.set_mode_cpu()
    made = caffe.get_solver(solver)
    while made.iter < iterations:
        made.step(min(every, iterations - made.iter))
        _tell({"iteration": int(made.iter)})


def _tell(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def main() -> int:
    """Entry of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("task", type=json.loads)
    options = parser.parse_args()
    die_with_parent(options.parent)
    train(**options.task)
    return 0


if __name__ == "__main__":
    sys.exit(main())
