"""Pictures with boxes in an LMDB, as SSD's tools write them, and a small SSD."""

from __future__ import annotations

from pathlib import Path

import lmdb
import numpy as np
from numpy.typing import NDArray

from gossip_caffe.wire import caffe_wire_pb2 as wire

CLASSES = 2
"""Bright squares are of class 1, dark ones of class 2; 0 is the background."""
Box = tuple[int, int, float, float, float, float, bool]
"""Label, instance, xmin, ymin, xmax, ymax, difficult."""


def annotated(pixels: NDArray[np.uint8], boxes: list[Box], *, typed: bool = True) -> bytes:
    """A record. Boxes of one label, one after the other, are one group."""
    channels, height, width = pixels.shape
    datum = wire.Datum(channels=channels, height=height, width=width, data=pixels.tobytes(), label=3)
    record = wire.AnnotatedDatum(datum=datum)
    if typed:
        record.type = 0
    for label, instance, xmin, ymin, xmax, ymax, difficult in boxes:
        groups = record.annotation_group
        if not groups or groups[-1].group_label != label:
            groups.add(group_label=label)
        box = wire.NormalizedBBox(xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax, difficult=difficult)
        groups[-1].annotation.add(instance_id=instance, bbox=box)
    return record.SerializeToString()


def write_records(path: Path, records: list[bytes]) -> Path:
    with lmdb.open(str(path), map_size=1 << 28) as environment, environment.begin(write=True) as writing:
        for index, record in enumerate(records):
            writing.put(b"%06d" % index, record)
    return path


def squares(count: int, size: int, seed: int) -> list[bytes]:
    """Pictures of 1 to 3 squares on grey noise, each in a quarter of its own."""
    rng = np.random.default_rng(seed)
    records = []
    for _ in range(count):
        pixels = rng.integers(96, 160, (3, size, size), dtype=np.uint8)
        boxes: list[Box] = []
        for quarter in rng.permutation(4)[: rng.integers(1, 4)]:
            side = int(rng.integers(size // 4, size // 2 - 1))
            left, top = (
                int(half) * (size // 2) + int(rng.integers(0, size // 2 - side + 1))
                for half in divmod(quarter, 2)
            )
            label = int(rng.integers(1, CLASSES + 1))
            pixels[:, top : top + side, left : left + side] = 250 if label == 1 else 5
            corners = (left / size, top / size, (left + side) / size, (top + side) / size)
            boxes.append((label, 0, *corners, False))
        records.append(annotated(pixels, sorted(boxes)))
    return records


def data_layer(
    source: Path, batch: int, phase: str = "TRAIN", transform: str = "", annotated_data: str = ""
) -> str:
    return (
        f'layer {{ name: "data" type: "AnnotatedData" top: "data" top: "label" include {{ phase: {phase} }} '
        f"transform_param {{ {transform} }} annotated_data_param {{ {annotated_data} }} "
        f'data_param {{ source: "{source}" backend: LMDB batch_size: {batch} }} }}\n'
    )


def ssd(size: int) -> str:
    """A net of three convolutions, with one map of priors, without its data layer."""

    def convolution(name: str, bottom: str, outputs: int, pad: int = 1, kernel: int = 3) -> str:
        return (
            f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" convolution_param {{ '
            f'num_output: {outputs} pad: {pad} kernel_size: {kernel} weight_filler {{ type: "xavier" }} }} }}\n'
        )

    def on(kind: str, bottom: str, param: str = "") -> str:
        name = f"{bottom}_{kind.lower()}"
        top = bottom if kind == "ReLU" else name
        return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top}" {param} }}\n'

    pool = "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"
    text = convolution("c1", "data", 8) + on("ReLU", "c1") + on("Pooling", "c1", pool)
    text += convolution("c2", "c1_pooling", 16) + on("ReLU", "c2") + on("Pooling", "c2", pool)
    text += convolution("c3", "c2_pooling", 16) + on("ReLU", "c3")
    for name, outputs in (("loc", 4), ("conf", CLASSES + 1)):
        text += convolution(name, "c3", 2 * outputs)
        text += on("Permute", name, "permute_param { order: 0 order: 2 order: 3 order: 1 }")
        text += on("Flatten", f"{name}_permute", "flatten_param { axis: 1 }")
    text += (
        'layer { name: "priors" type: "PriorBox" bottom: "c3" bottom: "data" top: "priors" prior_box_param { '
        f"min_size: {size // 4} max_size: {size // 2} clip: true "
        "variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 } }\n"
    )
    bottoms = 'bottom: "loc_permute_flatten" bottom: "conf_permute_flatten" bottom: "priors"'
    text += (
        f'layer {{ name: "loss" type: "MultiBoxLoss" {bottoms} bottom: "label" top: "loss" '
        "include { phase: TRAIN } propagate_down: true propagate_down: true propagate_down: false "
        "propagate_down: false loss_param { normalization: VALID } multibox_loss_param { "
        f"loc_loss_type: SMOOTH_L1 conf_loss_type: SOFTMAX loc_weight: 1 num_classes: {CLASSES + 1} "
        "share_location: true match_type: PER_PREDICTION overlap_threshold: 0.5 use_prior_for_matching: true "
        "background_label_id: 0 use_difficult_gt: true do_neg_mining: true neg_pos_ratio: 3 neg_overlap: 0.5 "
        "code_type: CENTER_SIZE } }\n"
    )
    test = "include { phase: TEST }"
    text += (
        'layer { name: "scores" type: "Reshape" bottom: "conf_permute_flatten" top: "scores" '
        f"{test} reshape_param {{ shape {{ dim: 0 dim: -1 dim: {CLASSES + 1} }} }} }}\n"
        f'layer {{ name: "softmax" type: "Softmax" bottom: "scores" top: "softmax" {test} '
        "softmax_param { axis: 2 } }\n"
        f'layer {{ name: "flat" type: "Flatten" bottom: "softmax" top: "flat" {test} }}\n'
        'layer { name: "out" type: "DetectionOutput" bottom: "loc_permute_flatten" bottom: "flat" bottom: "priors" '
        f'top: "out" {test} detection_output_param {{ num_classes: {CLASSES + 1} share_location: true '
        "background_label_id: 0 nms_param { nms_threshold: 0.45 top_k: 100 } code_type: CENTER_SIZE "
        "keep_top_k: 50 confidence_threshold: 0.01 } }\n"
        'layer { name: "evaluated" type: "DetectionEvaluate" bottom: "out" bottom: "label" top: "evaluated" '
        f"{test} detection_evaluate_param {{ num_classes: {CLASSES + 1} background_label_id: 0 "
        "overlap_threshold: 0.5 evaluate_difficult_gt: false } }\n"
    )
    return text


def mean_average_precision(rows: NDArray[np.float32]) -> float:
    """Return the mAP of the outputs of DetectionEvaluate, shape (n, 5): the mean over classes of the mean over recalls.

    Rows of image −1 say how many boxes a class has; the others are detections: image, label, score, right, wrong.
    """
    counts = {int(row[1]): row[2] for row in rows if row[0] < 0}
    precisions = []
    for label in range(1, CLASSES + 1):
        found = rows[(rows[:, 0] >= 0) & (rows[:, 1] == label)]
        found = found[np.argsort(-found[:, 2], kind="stable")]
        right, wrong = np.cumsum(found[:, 3]), np.cumsum(found[:, 4])
        recalls = np.diff(right, prepend=0) / max(1.0, counts.get(label, 0))
        precisions.append(float((recalls * right / np.maximum(right + wrong, 1)).sum()))
    return float(np.mean(precisions))
