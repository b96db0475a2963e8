"""A one-peer job against plain Caffe on the same records in the same order: after 50 iterations, not a bit differs.

The peer's side is real: loader process, ring, solver process. Caffe's side is the user's file, read by
``caffe.get_solver``, with Caffe's own data layers.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from gossip_caffe.checkpoint.formats.caffemodel import read_caffemodel
from gossip_caffe.solver.engines.layout import WeightLayout
from tests.caffe_jobs import HIDDEN, write_job
from tests.cluster_run import DEADLINE_S, cluster_run
from tests.one_peer import bare, trained
from tests.source_jobs import KINDS, READ_BY_CAFFE, write_source_job

pytestmark = pytest.mark.integration

ITERATIONS = 50
FIXED = 'lr_policy: "fixed"'
DECAY = "weight_decay: 0.0005"
SGD = f"base_lr: 0.05 momentum: 0.9 {DECAY}"

SOLVERS = {
    "SGD": f"{SGD} {FIXED}",
    "Nesterov": f'type: "Nesterov" {SGD} {FIXED}',
    "AdaGrad": f'type: "AdaGrad" base_lr: 0.05 delta: 1e-7 {DECAY} {FIXED}',
    "RMSProp": f'type: "RMSProp" base_lr: 0.01 rms_decay: 0.98 {DECAY} {FIXED}',
    "AdaDelta": f'type: "AdaDelta" base_lr: 1.0 momentum: 0.95 delta: 1e-6 {DECAY} {FIXED}',
    "Adam": f'type: "Adam" base_lr: 0.01 momentum: 0.9 momentum2: 0.999 {DECAY} {FIXED}',
}
POLICIES = {
    "fixed": 'lr_policy: "fixed"',
    "step": 'lr_policy: "step" gamma: 0.7 stepsize: 7',
    "exp": 'lr_policy: "exp" gamma: 0.98',
    "inv": 'lr_policy: "inv" gamma: 0.01 power: 0.75',
    "multistep": 'lr_policy: "multistep" gamma: 0.3 stepvalue: 5 stepvalue: 20 stepvalue: 41',
    "poly": 'lr_policy: "poly" power: 1.5',
    "sigmoid": 'lr_policy: "sigmoid" gamma: -0.2 stepsize: 25',
}
SETTINGS = {
    "L1": f'{SGD} {FIXED} regularization_type: "L1"',
    "clip_gradients": f"{SGD} {FIXED} clip_gradients: 0.3",
    "no decay": f"base_lr: 0.05 momentum: 0.5 {FIXED}",
    "average_loss, display, debug_info": f"{SGD} {FIXED} average_loss: 7 display: 10 debug_info: true",
    "old solver_type": f"{SGD} {FIXED} solver_type: NESTEROV",
}
CASES = {
    **{f"{name}, iter_size {size}": (text, size) for name, text in SOLVERS.items() for size in (1, 3)},
    **{
        f"{name}, iter_size {size}": (f"{SGD} {text}", size)
        for name, text in POLICIES.items()
        for size in (1, 3)
    },
    **{name: (text, 1) for name, text in SETTINGS.items()},
    "all at once": (f'{SGD} {POLICIES["inv"]} regularization_type: "L1" clip_gradients: 0.5', 3),
}


@pytest.mark.parametrize("case", CASES)
async def test_after_50_iterations_a_peers_weights_are_those_of_plain_caffe_bit_for_bit(
    tmp_path: Path, case: str
) -> None:
    solver, iter_size = CASES[case]
    job = write_job(tmp_path, f"{solver} iter_size: {iter_size}")
    peers = await trained(job.spec, ITERATIONS)
    caffes = bare(job.bare, ITERATIONS, peers.layout, tmp_path, peers.start)
    assert np.array_equal(peers.weights, caffes.weights)
    assert np.abs(peers.weights - peers.start).max() > 1e-3
    assert np.isfinite(peers.weights).all()


@pytest.mark.parametrize("iter_size", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_source_trains_as_in_plain_caffe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, iter_size: int
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    settings = f"{SGD} {POLICIES['inv']} random_seed: 5 iter_size: {iter_size}"
    job = write_source_job(tmp_path, kind, settings)
    peers = await trained(job.spec, ITERATIONS)
    start = None if kind in READ_BY_CAFFE else peers.start
    caffes = bare(job.bare, ITERATIONS, peers.layout, tmp_path, start)
    assert np.array_equal(peers.start, caffes.start) or start is not None
    assert np.array_equal(peers.weights, caffes.weights)
    assert np.abs(peers.weights - peers.start).max() > 1e-3


NORMALISED = """layer {
  name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } }
}
layer {
  name: "norm" type: "BatchNorm" bottom: "ip" top: "ip"
  param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 }
}
layer { name: "scale" type: "Scale" bottom: "ip" top: "ip" scale_param { bias_term: true } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.mark.parametrize("inline", [False, True], ids=["net in a file", "net in the solver"])
async def test_the_statistics_of_batch_normalisation_are_plain_caffes_too(
    tmp_path: Path, inline: bool
) -> None:
    # Caffe drops the three lr_mult of a net that it reads from a file, and keeps those of a net in the solver.
    job = write_job(tmp_path, f"{SGD} {FIXED}", net=NORMALISED, inline=inline)
    peers = await trained(job.spec, ITERATIONS)
    caffes = bare(job.bare, ITERATIONS, peers.layout, tmp_path, peers.start)
    assert [blob.shape for blob in peers.layout.blobs if blob.layer == "norm"] == [(10,), (10,), (1,)]
    assert np.array_equal(peers.weights, caffes.weights)


DROPOUT = HIDDEN.replace(
    'layer { name: "loss"',
    'layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" dropout_param { dropout_ratio: 0.3 } }\n'
    'layer { name: "loss"',
)


# A crop draws seeds, also one that moves nothing.
@pytest.mark.parametrize("transform", ["", "crop_size: 6"])
async def test_with_a_random_seed_the_fresh_weights_and_every_dropout_are_those_of_plain_caffe_too(
    tmp_path: Path, transform: str
) -> None:
    job = write_job(tmp_path, f"{SGD} {FIXED} random_seed: 1701", net=DROPOUT, transform=transform)
    peers = await trained(job.spec, ITERATIONS)
    caffes = bare(job.bare, ITERATIONS, peers.layout, tmp_path, None)
    assert np.array_equal(peers.start, caffes.start)
    assert np.array_equal(peers.weights, caffes.weights)


@pytest.mark.parametrize("iter_size", [1, 3])
def test_a_whole_job_of_one_peer_ends_with_the_weights_of_plain_caffe(tmp_path: Path, iter_size: int) -> None:
    settings = f"{SGD} {POLICIES['inv']} random_seed: 3 iter_size: {iter_size}"
    job = write_job(tmp_path, settings, max_iter=230)
    with cluster_run(tmp_path / "state") as run:
        up = run.start("cluster", "up", "--peers", "1", "--solver", str(job.bare), "--set", "shuffle=false")
        up.wait(DEADLINE_S)
        said = (run.folder / "up.log").read_text()
    result = re.search(r"is finished: (\S+\.caffemodel)", said)
    assert result is not None, said
    layout = WeightLayout.of(
        [("conv", 0, (4, 1, 3, 3)), ("conv", 1, (4,)), ("ip", 0, (10, 64)), ("ip", 1, (10,))]
    )
    caffes = bare(job.bare, 230, layout, tmp_path, None)
    assert np.array_equal(read_caffemodel(Path(result[1]).read_bytes(), layout), caffes.weights)
