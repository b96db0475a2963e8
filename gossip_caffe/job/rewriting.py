"""The two changes that make a user's solver a peer's: the data layer reads from the ring, and testing, snapshots and
display are the cluster's business. Everything else stays byte for byte, so that Caffe trains what the user wrote.
"""

from __future__ import annotations

import json

from gossip_caffe.job.nets import Layer
from gossip_caffe.job.prototxt import Document, edited

SOURCE_MODULE = "gossip_caffe.solver.source_layer"
SOURCE_CLASS = "BatchSource"

_NOT_A_PEERS_BUSINESS = frozenset(
    {
        *("net", "net_param", "train_net", "train_net_param", "test_net", "test_net_param", "train_state", "test_state"),
        *("test_iter", "test_interval", "test_compute_loss", "test_initialization", "eval_type", "ap_version"),
        *("display", "snapshot", "snapshot_prefix", "snapshot_diff", "snapshot_format", "snapshot_after_train"),
        *("weights", "layer_wise_reduce", "random_seed", "solver_mode", "device_id"),
    }
)


def ring_layer(source: Layer) -> str:
    """The Python layer that stands where the data layer stood, with the same name, tops and phase."""
    tops = " ".join(f"top: {json.dumps(top)}" for top in source.tops)
    return (
        f'layer {{ name: {json.dumps(source.name)} type: "Python" {tops} include {{ phase: TRAIN }} '
        f'python_param {{ module: "{SOURCE_MODULE}" layer: "{SOURCE_CLASS}" }} }}'
    )


def net_for_peer(document: Document, source: Layer) -> str:
    """The net's text with its data layer replaced."""
    return edited(document.text, [(source.place.start, source.place.end, ring_layer(source))])


def solver_for_peer(document: Document, net_text: str, stages: frozenset[str]) -> str:
    """The solver's text without what a peer does not do, and with its net inlined."""
    spans = {
        (entry.start, entry.end) for entry in document.root.fields if entry.name in _NOT_A_PEERS_BUSINESS
    }
    kept = edited(document.text, [(start, end, "") for start, end in spans])
    stage_text = " ".join(f"stage: {json.dumps(stage)}" for stage in sorted(stages))
    state = f"train_state {{ {stage_text} }}\n" if stages else ""
    return (
        f"{kept.rstrip()}\n{state}test_initialization: false\nsnapshot_after_train: false\n"
        f"train_net_param {{\n{net_text.rstrip()}\n}}\n"
    )


def bare_solver(document: Document, net_text: str, max_iter: int) -> str:
    """The solver as plain Caffe runs it, its own data layer kept, without testing and snapshots: for comparisons."""
    spans = {
        (entry.start, entry.end)
        for entry in document.root.fields
        if entry.name in _NOT_A_PEERS_BUSINESS - {"random_seed"} or entry.name == "max_iter"
    }
    kept = edited(document.text, [(start, end, "") for start, end in spans])
    return (
        f"{kept.rstrip()}\nmax_iter: {max_iter}\ntest_initialization: false\nsnapshot_after_train: false\n"
        f"train_net_param {{\n{net_text.rstrip()}\n}}\n"
    )
