"""The net and the solver of the demonstration, as prototxts that a user could have written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.demo.digits import PIXEL_MAX, TEST_RECORDS, TRAIN_RECORDS

BATCH = 16
TEST_BATCH = 60
TEST_ITER = TEST_RECORDS // TEST_BATCH
EPOCHS = 55
SNAPSHOTS = 20

NET_FILE = "train_val.prototxt"
SOLVER_FILE = "solver.prototxt"


@dataclass(frozen=True, slots=True)
class DemoFiles:
    """The files of the demonstration's job, all in one folder."""

    folder: Path

    @property
    def solver(self) -> Path:
        """The solver prototxt."""
        return self.folder / SOLVER_FILE

    @property
    def net(self) -> Path:
        """The prototxt of the TRAIN and TEST nets."""
        return self.folder / NET_FILE

    @property
    def single(self) -> Path:
        """The snapshot_prefix of the single solver."""
        return self.folder / "single" / "digits"


def iterations(epochs: int) -> int:
    """Return the ``max_iter`` that trains ``epochs`` epochs, rounded up to whole batches."""
    return -(-epochs * TRAIN_RECORDS // BATCH)


def net_text(data: str) -> str:
    """Return a LeNet for 8×8 pixels; ``data``: the folder of both LMDBs, as it is written into the text."""
    return f"""name: "DigitsLeNet"
{_data_layer("TRAIN", f"{data}/train_lmdb", BATCH)}
{_data_layer("TEST", f"{data}/test_lmdb", TEST_BATCH)}
{_convolution("conv1", "data", 32)}
{_convolution("conv2", "conv1", 64)}
layer {{
  name: "pool2"
  type: "Pooling"
  bottom: "conv2"
  top: "pool2"
  pooling_param {{ pool: MAX kernel_size: 2 stride: 2 }}
}}
{_inner_product("ip1", "pool2", 128)}
layer {{ name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }}
{_inner_product("ip2", "ip1", 10)}
layer {{
  name: "accuracy"
  type: "Accuracy"
  bottom: "ip2"
  bottom: "label"
  top: "accuracy"
  include {{ phase: TEST }}
}}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }}
"""


def solver_text(net: str, *, max_iter: int, seed: int, snapshot_prefix: str) -> str:
    """Return an SGD solver with momentum; the learning rate falls to a tenth at three quarters of ``max_iter``."""
    return f"""net: "{net}"
test_iter: {TEST_ITER}
test_interval: {max(1, max_iter // SNAPSHOTS)}
test_initialization: false
base_lr: 0.01
lr_policy: "multistep"
gamma: 0.1
stepvalue: {max_iter * 3 // 4}
momentum: 0.9
weight_decay: 0.0005
display: 100
max_iter: {max_iter}
snapshot: {max(1, max_iter // SNAPSHOTS)}
snapshot_prefix: "{snapshot_prefix}"
solver_mode: CPU
random_seed: {seed}
"""


def write_model(folder: Path, *, epochs: int, seed: int) -> DemoFiles:
    """Write both prototxts into ``folder``, whose LMDBs they name by absolute path."""
    folder = folder.resolve()
    files = DemoFiles(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files.net.write_text(net_text(str(folder)), encoding="utf-8")
    text = solver_text(
        str(files.net),
        max_iter=iterations(epochs),
        seed=seed,
        snapshot_prefix=str(files.single),
    )
    files.solver.write_text(text, encoding="utf-8")
    return files


def _data_layer(phase: str, source: str, batch: int) -> str:
    return f"""layer {{
  name: "digits"
  type: "Data"
  top: "data"
  top: "label"
  include {{ phase: {phase} }}
  transform_param {{ scale: {1 / PIXEL_MAX} }}
  data_param {{ source: "{source}" batch_size: {batch} backend: LMDB }}
}}"""


def _convolution(name: str, bottom: str, outputs: int) -> str:
    return f"""layer {{
  name: "{name}"
  type: "Convolution"
  bottom: "{bottom}"
  top: "{name}"
  param {{ lr_mult: 1 }}
  param {{ lr_mult: 2 }}
  convolution_param {{
    num_output: {outputs}
    kernel_size: 5
    pad: 2
    weight_filler {{ type: "xavier" }}
    bias_filler {{ type: "constant" }}
  }}
}}
layer {{ name: "{name}_relu" type: "ReLU" bottom: "{name}" top: "{name}" }}"""


def _inner_product(name: str, bottom: str, outputs: int) -> str:
    return f"""layer {{
  name: "{name}"
  type: "InnerProduct"
  bottom: "{bottom}"
  top: "{name}"
  param {{ lr_mult: 1 }}
  param {{ lr_mult: 2 }}
  inner_product_param {{
    num_output: {outputs}
    weight_filler {{ type: "xavier" }}
    bias_filler {{ type: "constant" }}
  }}
}}"""
