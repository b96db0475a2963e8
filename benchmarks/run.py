"""Runs the benchmarks of this folder one after the other: all of them, or those named.

    python benchmarks/run.py [NAME ...]

Each is a script that ends with ``RESULT {json}``; the results are repeated at the end.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
NOT_HERE = 6
"""The exit code of a benchmark whose machine lacks something (docs/errors.md), for example a GPU."""


def names() -> list[str]:
    return sorted(
        path.stem for path in HERE.glob("*.py") if path.stem != "run" and not path.stem.startswith("_")
    )


def run(name: str) -> str | None:
    """Run one, its output passed through; returns its RESULT line or why there is none, None when it failed."""
    command = [sys.executable, str(HERE / f"{name}.py")]
    result = None
    with subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if line.startswith("RESULT "):
                result = line.strip()
    if process.returncode == NOT_HERE:
        return "not measured: this machine lacks what it needs"
    return result if process.returncode == 0 else None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"any of {', '.join(names())}; none: all")
    chosen = parser.parse_args().names or names()
    if unknown := sorted(set(chosen) - set(names())):
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(names())}", file=sys.stderr)
        return 2
    results = {}
    for name in chosen:
        print(f"── {name} ──", flush=True)
        results[name] = run(name)
    if len(chosen) > 1:
        print("── results ──")
    for name, result in results.items():
        if result is None or len(chosen) > 1:
            print(f"{name}: {result or 'FAILED'}")
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
