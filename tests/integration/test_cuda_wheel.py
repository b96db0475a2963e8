"""The pycaffe with CUDA on a machine without a GPU: it imports, trains on the CPU as the other does, and says why not.

Building it takes minutes, so it is built elsewhere (``make pycaffe CUDA=1``) and named here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
from caffe import _gossip

from tests.caffe_jobs import MOMENTUM, write_job

WHEEL = os.environ.get("GOSSIP_CAFFE_TEST_CUDA_WHEEL", "")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not WHEEL, reason="GOSSIP_CAFFE_TEST_CUDA_WHEEL names no wheel of 'make pycaffe CUDA=1'"
    ),
]

TRAIN = """
    import sys
    import caffe
    import numpy as np

    prototxt, result = sys.argv[1:]
    caffe.set_mode_cpu()
    caffe.set_random_seed(7)
    solver = caffe.get_solver(prototxt)  # its own data layer: threads of Caffe's
    solver.step(50)
    np.save(result, np.concatenate([blob.data.reshape(-1) for blobs in solver.net.params.values() for blob in blobs]))
"""
ASK = """
    import json
    from caffe import _gossip

    told = {"built": _gossip.built_for_cuda, "missing": sorted(_gossip.missing_libraries())}
    try:
        told["gpus"] = _gossip.device_count()
    except RuntimeError as error:
        told["reason"] = str(error)
    print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuda-wheel")
    with zipfile.ZipFile(WHEEL) as wheel:
        wheel.extractall(folder)
    return folder


def run(script: str, *arguments: object, caffes: Path | None = None) -> str:
    environment = {**os.environ, "GLOG_minloglevel": "2", "OPENBLAS_NUM_THREADS": "1"}
    if caffes is not None:
        environment["PYTHONPATH"] = str(caffes)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_on_the_cpu_it_leaves_the_other_ones_weights_bit_for_bit(tmp_path: Path, unpacked: Path) -> None:
    if _gossip.built_for_cuda:
        pytest.skip("the pycaffe that is installed has CUDA, so there is no other one")
    job = write_job(tmp_path, f'base_lr: 0.05 {MOMENTUM} lr_policy: "inv" gamma: 0.01 power: 0.75')
    results = []
    for name, caffes in (("cpu", None), ("cuda", unpacked)):
        run(TRAIN, job.bare, tmp_path / f"{name}.npy", caffes=caffes)
        results.append(np.load(tmp_path / f"{name}.npy"))
    assert np.abs(results[0]).max() > 0
    np.testing.assert_array_equal(results[0], results[1])


def test_it_says_what_is_missing_instead_of_ending_the_process(unpacked: Path) -> None:
    told = json.loads(run(ASK, caffes=unpacked))
    assert told["built"]
    assert "gpus" in told or "CUDA" in told["reason"]
    assert set(told["missing"]) <= {"cuBLAS", "cuRAND", "cuDNN"}
