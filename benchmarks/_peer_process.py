"""Processes of `gossip-caffe peer start`, for benchmarks that start and end peers of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

LEAVE_S = 30.0


def start_peer(
    endpoint: str, job: str, name: str, run_dir: Path, log: Path, descriptors: int = 0
) -> subprocess.Popen[bytes]:
    """Start one, with one BLAS thread; what it says goes to ``log``. ``descriptors``: its limit on open files."""
    limited = ["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(descriptors)] if descriptors else []
    command = [*limited, sys.executable, "-m", "gossip_caffe", "peer", "start", "--etcd", endpoint]
    command += ["--job", job, "--name", name, "--run-dir", str(run_dir)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "GLOG_minloglevel": "2"}
    with log.open("wb") as said:
        return subprocess.Popen(command, env=environment, stdout=said, stderr=said)


def wait_for_end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a peer that was asked to leave, or is dead; kill it when that takes long."""
    try:
        process.wait(LEAVE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
