"""Digits, and a small net that learns them, for tests that compare how much is learned."""

from __future__ import annotations

from pathlib import Path

from gossip_caffe.demo.digits import PIXEL_MAX, TEST_RECORDS, TRAIN_RECORDS, write_digits

BATCH = 16
TEST_BATCH = 60

_NET = """name: "digits"
layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: TRAIN }}
  transform_param {{ scale: {scale} }}
  data_param {{ source: "{folder}/train_lmdb" batch_size: {batch} backend: LMDB }} }}
layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: TEST }}
  transform_param {{ scale: {scale} }}
  data_param {{ source: "{folder}/test_lmdb" batch_size: {test_batch} backend: LMDB }} }}
layer {{ name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param {{ num_output: 64 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }}
layer {{ name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param {{ num_output: 10 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss"
  include {{ phase: TRAIN }} }}
layer {{ name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy"
  include {{ phase: TEST }} }}
"""
_SOLVER = """net: "{net}"
test_iter: {test_iter}
test_interval: 1000000
test_initialization: false
base_lr: {rate}
lr_policy: "multistep"
gamma: 0.1
stepvalue: {step}
momentum: 0.9
weight_decay: 0.0005
max_iter: {iterations}
snapshot: 100
snapshot_prefix: "{folder}/nowhere/digits"
random_seed: {seed}
"""


def write_course(folder: Path, *, seed: int, epochs: int, rate: float = 0.05) -> Path:
    """Write data (split by ``seed``), net and solver into ``folder``; returns the solver's path.

    The folder of its snapshots is not there, which must disturb no course.
    """
    write_digits(folder, seed)
    net, solver = folder / "net.prototxt", folder / "solver.prototxt"
    net.write_text(_NET.format(folder=folder, batch=BATCH, test_batch=TEST_BATCH, scale=1 / PIXEL_MAX))
    iterations = epochs * TRAIN_RECORDS // BATCH
    solver.write_text(
        _SOLVER.format(
            net=net,
            folder=folder,
            test_iter=TEST_RECORDS // TEST_BATCH,
            rate=rate,
            step=iterations * 3 // 4,
            iterations=iterations,
            seed=seed,
        )
    )
    return solver
