"""The size of a peer's event log on disk: LeNet at full speed for ``--seconds``, extrapolated to a day.

    python benchmarks/event_log.py [--seconds 600] [--peers 2] [--net lenet]

The peers share one job and exchange weights. The size is that of the folder of a peer's log as it lies on the disk, its
closed parts compressed. docs/internals/benchmarks.md says what each figure means.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _models import MODELS, write_solver
from overhead import ONE_THREAD, TrainedSoFar, make_job

from gossip_caffe.cluster.etcd.server import EtcdServer

DAY_S = 86_400
FOR_EVER = 100_000_000
STARTS_WITHIN_S = 120.0
LEAVES_WITHIN_S = 60.0


def size_bytes(events: Path, peer: str) -> int:
    """The bytes on disk of all parts of a peer's log."""
    return sum(path.stat().st_size for path in events.iterdir() if path.name.startswith(f"{peer}."))


def start(endpoint: str, job: str, peer: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start a peer; its output goes to a file in ``folder``."""
    command = [sys.executable, "-m", "gossip_caffe", "peer", "start", "--etcd", endpoint, "--job", job]
    command += ["--name", peer, "--run-dir", str(folder / "run"), "--metrics-listen", "none"]
    with (folder / f"{peer}.log").open("wb") as log:
        return subprocess.Popen(command, env={**os.environ, **ONE_THREAD}, stdout=log, stderr=log)


def measured(endpoint: str, net: str, peers: int, seconds: float, folder: Path) -> dict[str, float]:
    """Let the peers train for ``seconds``, and return the figures."""
    solver_file = write_solver(MODELS[net], folder, max_iter=FOR_EVER)
    asyncio.run(make_job(endpoint, net, solver_file))
    events = folder / "run" / "events"
    names = [f"p{number}" for number in range(peers)]
    running = [start(endpoint, net, name, folder) for name in names]
    try:
        deadline = time.monotonic() + STARTS_WITHIN_S
        trained = TrainedSoFar(events)
        while not trained.look():
            if time.monotonic() > deadline or any(peer.poll() is not None for peer in running):
                raise SystemExit("the peers do not train: " + (folder / "p0.log").read_text()[-500:])
            time.sleep(0.1)
        began, before = time.monotonic(), trained.samples
        sizes = [size_bytes(events, name) for name in names]
        time.sleep(seconds)
        passed_s, samples = time.monotonic() - began, trained.look() - before
        written = [size_bytes(events, name) - size for name, size in zip(names, sizes, strict=True)]
        parts = sum(1 for path in events.iterdir() if path.name.startswith("p0."))
    finally:
        for peer in running:
            peer.send_signal(signal.SIGTERM)
        for peer in running:
            peer.wait(LEAVES_WITHIN_S)
    return {
        f"event_log_seconds_{net}": round(passed_s, 1),
        f"event_log_samples_per_s_{net}": round(samples / passed_s, 1),
        f"event_log_parts_{net}": parts,
        f"event_log_mb_per_day_{net}": round(max(written) / passed_s * DAY_S / 1e6, 2),
    }


def main() -> int:
    """Measure, and print the figures as one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--peers", type=int, default=2)
    parser.add_argument("--net", default="lenet", choices=sorted(MODELS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-event-log-") as folder:
        server = EtcdServer(Path(folder) / "etcd")
        server.start()
        try:
            figures = measured(server.endpoint, options.net, options.peers, options.seconds, Path(folder))
        finally:
            server.stop()
    print(f"RESULT {json.dumps(figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
