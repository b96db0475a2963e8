"""Nets that benchmarks train, written after their public descriptions, with made-up data of the right size.

Speed does not depend on what the pixels show, so the data is noise and no file needs to be fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np

from gossip_caffe.wire import caffe_wire_pb2 as wire

CLASSES = 10


@dataclass(frozen=True, slots=True)
class Model:
    """A net over a data set. ``shape``: channels, height and width of a record (uint8)."""

    name: str
    shape: tuple[int, int, int]
    batch: int
    records: int
    transform: str
    layers: str
    solver: str


def _convolution(name: str, bottom: str, outputs: int, pad: int = 0, std: str = "") -> str:
    filler = f'type: "gaussian" std: {std}' if std else 'type: "xavier"'
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"\n'
        f"  param {{ lr_mult: 1 }} param {{ lr_mult: 2 }}\n"
        f"  convolution_param {{ num_output: {outputs} pad: {pad} kernel_size: 5 stride: 1\n"
        f'    weight_filler {{ {filler} }} bias_filler {{ type: "constant" }} }} }}\n'
    )


def _pooling(name: str, bottom: str, kind: str, kernel: int) -> str:
    return (
        f'layer {{ name: "{name}" type: "Pooling" bottom: "{bottom}" top: "{name}"\n'
        f"  pooling_param {{ pool: {kind} kernel_size: {kernel} stride: 2 }} }}\n"
    )


def _relu(bottom: str) -> str:
    return f'layer {{ name: "relu_{bottom}" type: "ReLU" bottom: "{bottom}" top: "{bottom}" }}\n'


def _dense(name: str, bottom: str, outputs: int, std: str = "") -> str:
    filler = f'type: "gaussian" std: {std}' if std else 'type: "xavier"'
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}"\n'
        f"  param {{ lr_mult: 1 }} param {{ lr_mult: 2 }}\n"
        f"  inner_product_param {{ num_output: {outputs} weight_filler {{ {filler} }}\n"
        f'    bias_filler {{ type: "constant" }} }} }}\n'
    )


def _loss(bottom: str) -> str:
    return (
        f'layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "{bottom}" bottom: "label" top: "loss" }}\n'
    )


LENET = Model(
    name="lenet",
    shape=(1, 28, 28),
    batch=64,
    records=12_800,
    transform="scale: 0.00390625",
    layers=_convolution("conv1", "data", 20)
    + _pooling("pool1", "conv1", "MAX", 2)
    + _convolution("conv2", "pool1", 50)
    + _pooling("pool2", "conv2", "MAX", 2)
    + _dense("ip1", "pool2", 500)
    + _relu("ip1")
    + _dense("ip2", "ip1", CLASSES)
    + _loss("ip2"),
    solver='base_lr: 0.001 lr_policy: "inv" gamma: 0.0001 power: 0.75 momentum: 0.9 weight_decay: 0.0005',
)
"""LeCun et al. 1998, in the form that is usual with Caffe: 431,080 weights."""

CIFAR10_QUICK = Model(
    name="cifar10_quick",
    shape=(3, 32, 32),
    batch=100,
    records=10_000,
    transform='mean_file: "{mean}"',
    layers=_convolution("conv1", "data", 32, pad=2, std="0.0001")
    + _pooling("pool1", "conv1", "MAX", 3)
    + _relu("pool1")
    + _convolution("conv2", "pool1", 32, pad=2, std="0.01")
    + _relu("conv2")
    + _pooling("pool2", "conv2", "AVE", 3)
    + _convolution("conv3", "pool2", 64, pad=2, std="0.01")
    + _relu("conv3")
    + _pooling("pool3", "conv3", "AVE", 3)
    + _dense("ip1", "pool3", 64, std="0.1")
    + _dense("ip2", "ip1", CLASSES, std="0.1")
    + _loss("ip2"),
    solver='base_lr: 0.0001 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.004',
)
"""The smaller of the two CIFAR-10 nets after Krizhevsky's cuda-convnet: 145,578 weights."""

WIDE = Model(
    name="wide",
    shape=(1, 28, 28),
    batch=16,
    records=64,
    transform="scale: 0.00390625",
    layers=_dense("ip1", "data", 7_424)
    + _relu("ip1")
    + _dense("ip2", "ip1", 7_424)
    + _relu("ip2")
    + _dense("ip3", "ip2", CLASSES)
    + _loss("ip3"),
    solver='base_lr: 0.001 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.0005',
)
"""Two wide hidden layers: 61,025,290 weights, as many as AlexNet has, 244 MB as float32. Its data are few."""

MODELS = {model.name: model for model in (LENET, CIFAR10_QUICK)}


def dense_net(name: str, *, inputs: int, hidden: int, batch: int) -> Model:
    """Two dense layers: (inputs + 1) · hidden + (hidden + 1) · CLASSES weights, and little else to do."""
    return Model(
        name=name,
        shape=(1, 1, inputs),
        batch=batch,
        records=2_000,
        transform="scale: 0.00390625",
        layers=_dense("ip1", "data", hidden, std="0.01")
        + _relu("ip1")
        + _dense("ip2", "ip1", CLASSES)
        + _loss("ip2"),
        solver='base_lr: 0.0001 lr_policy: "fixed" momentum: 0.9',
    )


def write_data(model: Model, folder: Path) -> Path:
    """Write a model's LMDB and mean file into ``folder`` once; returns the LMDB's path."""
    path = folder / f"{model.name}_train_lmdb"
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    channels, height, width = model.shape
    with lmdb.open(str(path), map_size=1 << 32) as environment, environment.begin(write=True) as writing:
        for index in range(model.records):
            pixels = rng.integers(0, 256, model.shape, dtype=np.uint8)
            datum = wire.Datum(
                channels=channels,
                height=height,
                width=width,
                data=pixels.tobytes(),
                label=int(rng.integers(CLASSES)),
            )
            writing.put(b"%08d" % index, datum.SerializeToString())
    mean = wire.BlobProto(num=1, channels=channels, height=height, width=width)
    mean.data.extend([127.5] * (channels * height * width))
    _mean_path(model, folder).write_bytes(mean.SerializeToString())
    return path


def write_solver(model: Model, folder: Path, *, max_iter: int, batch: int = 0) -> Path:
    """Write a model's net and solver into ``folder``, without tests and snapshots; returns the solver's path."""
    source = write_data(model, folder)
    transform = model.transform.format(mean=_mean_path(model, folder))
    net = folder / f"{model.name}.prototxt"
    net.write_text(
        f'name: "{model.name}"\n'
        f'layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: TRAIN }}\n'
        f"  transform_param {{ {transform} }}\n"
        f'  data_param {{ source: "{source}" backend: LMDB batch_size: {batch or model.batch} }} }}\n'
        f"{model.layers}"
    )
    solver = folder / f"{model.name}_solver_{max_iter}.prototxt"
    solver.write_text(
        f'net: "{net}"\nmax_iter: {max_iter}\nrandom_seed: 1\nsnapshot_after_train: false\n{model.solver}\n'
    )
    return solver


def _mean_path(model: Model, folder: Path) -> Path:
    return folder / f"{model.name}_mean.binaryproto"
