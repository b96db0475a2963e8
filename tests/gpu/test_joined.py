"""A user's own script as a peer, on a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gossip_caffe.cluster.etcd.server import EtcdServer
from gossip_caffe.solver.gpu.gpus import Gpu
from tests.cluster_run import ROOT
from tests.joined_gpu import trains_on
from tests.tiny_job import write_job


@pytest.mark.needs("etcd")
def test_a_script_trains_on_a_gpu(tmp_path: Path, gpu: Gpu) -> None:
    job = write_job(tmp_path / "job", iterations=20_000)
    server = EtcdServer(tmp_path / "etcd")
    server.start()
    try:
        trains_on(gpu.index, server.endpoint, job.solver, tmp_path, {**os.environ, "PYTHONPATH": str(ROOT)})
    finally:
        server.stop()
