"""AlexNet (Krizhevsky et al. 2012), after its description, in the form that is usual with Caffe: 60,965,224 weights.

One column of filters, two groups in three of its layers, pooling after normalization, and 1,000
classes. Speed does not depend on what the pixels show.
"""

from __future__ import annotations

from _models import Model

CLASSES = 1000
SIDE = 227


def _convolution(engine: str, name: str, bottom: str, outputs: int, kernel: int, more: str = "") -> str:
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"\n'
        f"  param {{ lr_mult: 1 decay_mult: 1 }} param {{ lr_mult: 2 decay_mult: 0 }}\n"
        f"  convolution_param {{ num_output: {outputs} kernel_size: {kernel} {more} engine: {engine}\n"
        f'    weight_filler {{ type: "gaussian" std: 0.01 }} bias_filler {{ type: "constant" }} }} }}\n'
        + _relu(engine, name)
    )


def _relu(engine: str, name: str) -> str:
    of_engine = f"relu_param {{ engine: {engine} }}"
    return f'layer {{ name: "relu_{name}" type: "ReLU" bottom: "{name}" top: "{name}" {of_engine} }}\n'


def _norm_and_pool(engine: str, number: int, *, norm: bool = True) -> str:
    bottom, text = f"conv{number}", ""
    if norm:
        bottom = f"norm{number}"
        text = (
            f'layer {{ name: "{bottom}" type: "LRN" bottom: "conv{number}" top: "{bottom}"\n'
            f"  lrn_param {{ local_size: 5 alpha: 0.0001 beta: 0.75 engine: {engine} }} }}\n"
        )
    return text + (
        f'layer {{ name: "pool{number}" type: "Pooling" bottom: "{bottom}" top: "pool{number}"\n'
        f"  pooling_param {{ pool: MAX kernel_size: 3 stride: 2 }} }}\n"
    )


def _dense(engine: str, name: str, bottom: str, outputs: int, *, last: bool = False) -> str:
    text = (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}"\n'
        f"  param {{ lr_mult: 1 decay_mult: 1 }} param {{ lr_mult: 2 decay_mult: 0 }}\n"
        f'  inner_product_param {{ num_output: {outputs} weight_filler {{ type: "gaussian" std: 0.005 }} }} }}\n'
    )
    if last:
        return text
    dropout = f'layer {{ name: "drop_{name}" type: "Dropout" bottom: "{name}" top: "{name}" }}\n'
    return text + _relu(engine, name) + dropout


def alexnet(batch: int, *, cudnn: bool = True, records: int = 512) -> Model:
    """The net; without ``cudnn`` all layers are Caffe's own."""
    engine = "DEFAULT" if cudnn else "CAFFE"
    return Model(
        name=f"alexnet_{'cudnn' if cudnn else 'caffe'}",
        shape=(3, SIDE, SIDE),
        batch=batch,
        records=records,
        transform="scale: 0.00390625",
        layers=_convolution(engine, "conv1", "data", 96, 11, "stride: 4")
        + _norm_and_pool(engine, 1)
        + _convolution(engine, "conv2", "pool1", 256, 5, "pad: 2 group: 2")
        + _norm_and_pool(engine, 2)
        + _convolution(engine, "conv3", "pool2", 384, 3, "pad: 1")
        + _convolution(engine, "conv4", "conv3", 384, 3, "pad: 1 group: 2")
        + _convolution(engine, "conv5", "conv4", 256, 3, "pad: 1 group: 2")
        + _norm_and_pool(engine, 5, norm=False)
        + _dense(engine, "fc6", "pool5", 4096)
        + _dense(engine, "fc7", "fc6", 4096)
        + _dense(engine, "fc8", "fc7", CLASSES, last=True)
        + 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc8" bottom: "label" top: "loss" }\n',
        solver='base_lr: 0.001 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.0005',
    )
