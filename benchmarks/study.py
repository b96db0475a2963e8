"""A study of LeNet whose workers are killed: every trial is accounted for, and its best is set beside the stock solver.

    python benchmarks/study.py [--data FOLDER] [--trials 24] [--workers 2] [--every 20]

LeNet on Fashion-MNIST, whose four files FOLDER (or GOSSIP_CAFFE_FASHION_MNIST) holds as they are published; without
them a smaller LeNet on scikit-learn's digits. A random worker is killed with SIGKILL every so many seconds, but no
sooner than a test was made since the last kill; the study replaces it. docs/internals/benchmarks.md says what each
figure means.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from learning import DATA, digits_solver, fashion_solver, write_fashion

from gossip_caffe.observe.checker.verdict import verdict_of

DEADLINE_S = 3600.0
SAMPLES, TESTS = 19_200, 3
STUDY = """name = "{name}"
solver = "{solver}"
trials = {trials}
samples = {samples}
tests = {tests}
seed = 3
[objective]
output = "accuracy"
goal = "max"
[sampler]
kind = "{sampler}"
[pruner]
kind = "{pruner}"
[space]
"solver.base_lr" = {{ {rates} }}
"solver.momentum" = {{ choices = {momenta} }}
"""


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "gossip_caffe", "tune", *words]


def workers_of(study: int) -> list[int]:
    """The processes of the study that work on trials."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
            if b"\0tune\0work\0" in words and f"PPid:\t{study}\n" in (folder / "status").read_text():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def summary(state: Path, name: str) -> dict[str, Any]:
    """What the study knows of its trials; nothing before it has begun."""
    try:
        record: dict[str, Any] = json.loads((state / "clusters" / f"tune-{name}" / "study.json").read_text())
    except FileNotFoundError:
        return {"trials": []}
    return record


def tests_in(record: dict[str, Any]) -> int:
    return sum(len(trial["tests"]) for trial in record["trials"])


def studied(folder: Path, name: str, workers: int, every_s: float) -> tuple[dict[str, Any], int, float]:
    """Run a study to its end, and kill workers on the way; returns its record, the kills and the seconds."""
    state = folder / "state"
    environment = {**os.environ, "GOSSIP_CAFFE_STATE": str(state), "OPENBLAS_NUM_THREADS": "1"}
    rng, kills, tested = random.Random(1), 0, 0
    with (folder / f"{name}.log").open("wb") as log:
        study = subprocess.Popen(
            command("run", f"{name}.toml", "--workers", str(workers)),
            cwd=folder, env=environment, stdout=log, stderr=log,
        )  # fmt: skip
    began = killed_at = time.monotonic()
    while study.poll() is None:
        if time.monotonic() > began + DEADLINE_S:
            study.send_signal(signal.SIGTERM)
            raise SystemExit(f"the study has not ended within {DEADLINE_S:.0f} s")
        time.sleep(0.5)
        made = tests_in(summary(state, name))
        due = every_s > 0 and time.monotonic() > killed_at + every_s and made > tested
        if due and (targets := workers_of(study.pid)):
            killed_at, tested, kills = time.monotonic(), made, kills + 1
            os.kill(rng.choice(targets), signal.SIGKILL)
    if study.returncode:
        raise SystemExit((folder / f"{name}.log").read_text()[-2000:])
    return summary(state, name), kills, time.monotonic() - began


def broken_in(state: Path, name: str) -> dict[str, list[str]]:
    """The broken invariants of each trial's job."""
    folders = sorted((state / "clusters" / f"tune-{name}" / "trials").iterdir())
    return {folder.name: [finding.invariant for finding in verdict_of(folder).broken] for folder in folders}


def main() -> int:
    """Run the study and the stock solver, and print the figures as one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get(DATA))
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=float, default=20.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-study-") as made:
        folder = Path(made)
        data = folder / "data"
        data.mkdir()
        write = digits_solver if options.data is None else fashion_solver
        if options.data is not None:
            write_fashion(Path(options.data), data)
        solver = write(data, folder, epochs=20.0, seed=1, clipped=False)
        spaces = (
            ("tuned", options.trials, "tpe", "asha", "float = [1e-3, 1e-1], log = true", "[0.8, 0.9, 0.95]"),
            ("stock", 1, "grid", "none", "choices = [0.01]", "[0.9]"),
        )
        for name, trials, sampler, pruner, rates, momenta in spaces:
            text = STUDY.format(
                name=name, solver=solver, trials=trials, samples=SAMPLES, tests=TESTS,
                sampler=sampler, pruner=pruner, rates=rates, momenta=momenta,
            )  # fmt: skip
            (folder / f"{name}.toml").write_text(text)
        found, kills, seconds = studied(folder, "tuned", options.workers, options.every)
        broken = broken_in(folder / "state", "tuned")
        stock, _, _ = studied(folder, "stock", 1, 0.0)
    best = next(trial for trial in found["trials"] if trial["number"] == found["best"])
    states = [trial["state"] for trial in found["trials"]]
    print(f"best {best['value']:.4f} with {best['values']}; {found['counts']}; broken: {broken}")
    figures = {
        "study_trials": len({trial["number"] for trial in found["trials"]}),
        "study_kills": kills,
        "study_seconds": round(seconds, 1),
        "study_unfinished": sum(state not in {"complete", "pruned"} for state in states),
        "study_broken_jobs": sum(map(bool, broken.values())),
        "study_jobs": len(broken),
        "study_best": round(best["value"], 4),
        "study_stock": round(stock["trials"][0]["value"], 4),
        "study_samples_share": round(found["samples"] / (options.trials * SAMPLES), 3),
        "fashion_mnist": options.data is not None,
    }
    print(f"RESULT {json.dumps(figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
