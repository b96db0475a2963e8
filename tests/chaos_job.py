"""Writes the job that chaos runs train: ``python -m tests.chaos_job FOLDER [EPOCHS]``."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.tiny_job import write_job

RECORDS, BATCH, HIDDEN = 96_000, 64, 10_000
"""Eight epochs of it take two busy cores some minutes."""


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    if not (folder / "solver.prototxt").exists():
        write_job(folder, records=RECORDS, batch=BATCH, hidden=HIDDEN, iterations=epochs * RECORDS // BATCH)


if __name__ == "__main__":
    main()
