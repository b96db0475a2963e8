"""A script that joins a job with its own solver, for overhead.py: it reads its own data, as a bare solver does."""

from __future__ import annotations

import json
import time
from pathlib import Path

JOINED = "--joined"


def joined_child(endpoint: str, job: str, solver_file: str, folder: str, skipped: int, measured: int) -> None:
    """Step the solver ``skipped`` times, then ``measured`` times, in a process of its own; print the figures."""
    import caffe  # noqa: PLC0415 - only this child may load Caffe

    import gossip_caffe as gc  # noqa: PLC0415

    caffe.set_mode_cpu()
    solver = caffe.get_solver(solver_file)
    with gc.join(solver, etcd=endpoint, job=job, own_data=True, run_dir=Path(folder), name="p0") as peer:
        seconds = cpu = 0.0
        for count, is_measured in ((skipped, False), (measured, True)):
            wall, used = time.monotonic(), time.process_time()
            for _ in range(count):
                solver.step(1)
                peer.exchange_if_due()
            if is_measured:
                seconds, cpu = time.monotonic() - wall, time.process_time() - used
    print(json.dumps({"samples": measured, "seconds": seconds, "cpu_s": cpu}), flush=True)
