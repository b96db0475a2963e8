"""Writes the job that chaos runs train: ``python -m tests.chaos_job FOLDER [EPOCHS]``.

The layer that takes $PACE_MS leaves the processors time for those who join; the classes overlap, so that the best model
is right in 92 of 100 cases.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.tiny_job import TinyJob, write_job, write_lmdb

RECORDS, BATCH, HIDDEN = 96_000, 64, 5_000
NOISE = 130.0
TEST_RECORDS = 6_400


def write_chaos_job(folder: Path, epochs: int, records: int = RECORDS, batch: int = BATCH) -> TinyJob:
    """Write it into a folder."""
    job = write_job(
        folder, records=1, batch=batch, hidden=HIDDEN, iterations=epochs * records // batch, pace_ms=0
    )
    for path, count, seed in ((job.train, records, 1), (job.test, TEST_RECORDS, 2)):
        shutil.rmtree(path)
        write_lmdb(path, count, seed, NOISE)
    passes = TEST_RECORDS // batch
    job.solver.write_text(job.solver.read_text().replace("test_iter: 4", f"test_iter: {passes}"))
    return job


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    if not (folder / "solver.prototxt").exists():
        write_chaos_job(folder, int(sys.argv[2]) if len(sys.argv) > 2 else 3)


if __name__ == "__main__":
    main()
