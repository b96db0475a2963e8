"""What is exported of a checkpoint is what plain Caffe would have written, and plain Caffe goes on from it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gossip_caffe.checkpoint.export import export
from gossip_caffe.checkpoint.files import CheckpointFolder
from gossip_caffe.checkpoint.manifest import MODEL, Manifest
from gossip_caffe.checkpoint.solverstate import current_step, write_solverstate
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.solver.board import Flat
from gossip_caffe.wire import caffe_wire_pb2 as wire
from tests.caffe_jobs import HIDDEN, write_job
from tests.integration.test_beginnings import made, snapshot_of_plain_caffe
from tests.one_peer import ENVIRONMENT, OnePeer, bare

pytestmark = [pytest.mark.integration, pytest.mark.needs("caffe", "etcd")]

DONE, MORE = 14, 12
SOLVERS = {
    "SGD": 'base_lr: 0.05 momentum: 0.9 lr_policy: "inv" gamma: 0.05 power: 0.75',
    "Adam": 'type: "Adam" base_lr: 0.01 momentum: 0.9 momentum2: 0.999 lr_policy: "step" gamma: 0.5 stepsize: 5',
    "multistep": 'base_lr: 0.05 momentum: 0.9 lr_policy: "multistep" gamma: 0.1 stepvalue: 5 stepvalue: 14',
}
_INPUT = (
    'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 8 dim: 1 dim: 6 dim: 6 } } }'
)
_OUTPUTS = """
import sys
import caffe
import numpy as np
caffe.set_mode_cpu()
net = caffe.Net(sys.argv[1], sys.argv[2], caffe.TEST)
rng = np.random.default_rng(1)
net.blobs["data"].data[...] = rng.standard_normal(net.blobs["data"].data.shape)
net.forward()
np.save(sys.argv[3], net.blobs["ip"].data)
"""


async def checkpoint_of_one_peer(spec: JobSpec, root: Path) -> Path:
    """A checkpoint as the only peer of a job makes it at its end: its folder."""
    peer = OnePeer(spec)
    try:
        await peer.start()
        await peer.train(DONE)
        history = await peer.solver.history()
        assert history.iteration == DONE
        manifest = Manifest(
            checkpoint="c1",
            job=spec.name,
            job_fingerprint=spec.fingerprint,
            layout=peer.layout.entries,
            progress_samples=DONE * spec.data.batch_records,
            folded=0,
            done=(),
            maker="p0",
            contributors=("p0",),
            made_at=0.0,
        )
        folder = CheckpointFolder(root)
        folder.write(
            manifest,
            peer.weights(),
            lambda file: write_solverstate(
                file,
                iteration=DONE,
                learned_net=MODEL,
                history=history.blobs,
                step=current_step(spec.schedule, DONE),
            ),
        )
        history.close()
        folder.load("c1", job_fingerprint=spec.fingerprint, layout_fingerprint=peer.layout.fingerprint)
        return folder.path("c1")
    finally:
        await peer.stop()
        peer.ring.close()


def outputs(net: Path, model: Path, folder: Path) -> Flat:
    result = folder / "outputs.npy"
    done = subprocess.run(
        [sys.executable, "-c", _OUTPUTS, str(net), str(model), str(result)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **ENVIRONMENT, "GLOG_minloglevel": "2"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: Flat = np.load(result)
    return found


@pytest.mark.parametrize("solver", SOLVERS)
async def test_plain_caffe_goes_on_from_an_exported_checkpoint_as_from_its_own_bit_for_bit(
    tmp_path: Path, solver: str
) -> None:
    job = write_job(tmp_path, f'{SOLVERS[solver]} random_seed: 1 snapshot_prefix: "plain"')
    plain = snapshot_of_plain_caffe(job.bare, DONE)
    spec = made(job)
    model, state = export(await checkpoint_of_one_peer(spec, tmp_path / "checkpoints"), tmp_path / "ours")
    assert (model, state) == (tmp_path / "ours.caffemodel", tmp_path / "ours.solverstate")

    ours, theirs = (wire.SolverState.FromString(path.read_bytes()) for path in (state, plain))
    assert (ours.iter, ours.current_step) == (theirs.iter, theirs.current_step)
    assert ours.learned_net == str(model)
    assert len(ours.history) == len(theirs.history)
    for blob, plain_blob in zip(ours.history, theirs.history, strict=True):
        assert blob.shape == plain_blob.shape
        assert np.array_equal(blob.data, plain_blob.data)

    layout = CheckpointFolder(tmp_path / "checkpoints").manifest("c1").weight_layout()
    mine = bare(job.bare, MORE, layout, tmp_path, None, snapshot=state)
    caffes = bare(job.bare, MORE, layout, tmp_path, None, snapshot=plain)
    assert np.array_equal(mine.weights, caffes.weights)
    assert not np.array_equal(mine.weights, mine.start)

    net = tmp_path / "deploy.prototxt"
    without_loss = HIDDEN[: HIDDEN.index('layer { name: "loss"')]
    net.write_text(f"{_INPUT}{without_loss}")
    assert np.array_equal(
        outputs(net, model, tmp_path), outputs(net, plain.with_suffix(".caffemodel"), tmp_path)
    )
