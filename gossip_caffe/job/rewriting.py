"""The two changes that make a user's solver a peer's.

The source layers read from the ring, and testing, snapshots and display are the cluster's business. Everything
else stays byte for byte, so that Caffe trains what the user wrote.
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Set

from gossip_caffe.job.nets import Layer
from gossip_caffe.job.prototxt import Document, edited
from gossip_caffe.job.spec import FedLayer

SOURCE_MODULE = "gossip_caffe.solver.source_layer"
SOURCE_CLASS = "BatchSource"

_NOT_A_PEERS_BUSINESS = frozenset(
    {
        *(
            "net",
            "net_param",
            "train_net",
            "train_net_param",
            "test_net",
            "test_net_param",
            "test_state",
        ),
        *(
            "test_iter",
            "test_interval",
            "test_compute_loss",
            "test_initialization",
            "eval_type",
            "ap_version",
        ),
        *(
            "display",
            "snapshot",
            "snapshot_prefix",
            "snapshot_diff",
            "snapshot_format",
            "snapshot_after_train",
        ),
        *("weights", "layer_wise_reduce", "random_seed", "solver_mode", "device_id"),
    }
)


def ring_layer(source: Layer, first_top: int) -> str:
    """Write the Python layer that stands where a source layer stood, with the same name, tops and phase.

    ``first_top``: which of the ring's tops is its first.
    """
    tops = " ".join(f"top: {quoted(top)}" for top in source.tops)
    return (
        f'layer {{ name: {quoted(source.name)} type: "Python" {tops} include {{ phase: TRAIN }} '
        f'python_param {{ module: "{SOURCE_MODULE}" layer: "{SOURCE_CLASS}" '
        f'param_str: "{first_top}:{len(source.tops)}" }} }}'
    )


def shape_layer(fed: FedLayer) -> str:
    """Write a layer that has a source layer's name and the shapes of its tops, and no data."""
    tops = fed.source.tops
    names = " ".join(f"top: {quoted(top.name)}" for top in tops)
    shapes = " ".join(
        f"shape {{ {' '.join(f'dim: {size}' for size in (fed.batch_records, *top.shape))} }}" for top in tops
    )
    return f'layer {{ name: {quoted(fed.source.layer)} type: "Input" {names} input_param {{ {shapes} }} }}'


def quoted(text: str) -> str:
    """Write a string value of the text format."""
    # The escapes of JSON are those of the text format, except for the ones that ensure_ascii would add.
    return json.dumps(text, ensure_ascii=False)


def net_to_feed(document: Document, layers: Sequence[Layer], fed: Sequence[FedLayer]) -> str:
    """Rewrite a net's text with those of its ``layers`` that are fed replaced by such as have no data."""
    by_name = {layer.source.layer: layer for layer in fed}
    edits = [
        (layer.place.start, layer.place.end, shape_layer(by_name[layer.name]))
        for layer in layers
        if layer.name in by_name and not layer.fields.all("bottom")
    ]
    return edited(document.text, edits)


def net_for_peer(document: Document, sources: Sequence[Layer]) -> str:
    """Rewrite a net's text with its source layers replaced."""
    edits, first_top = [], 0
    for source in sources:
        edits.append((source.place.start, source.place.end, ring_layer(source, first_top)))
        first_top += len(source.tops)
    return edited(document.text, edits)


def solver_for_peer(document: Document, net_text: str) -> str:
    """Rewrite a solver without what a peer does not do, and with its net inlined.

    The field says where the net comes from: ``net_param`` when the user's solver holds it, ``train_net_param`` when
    it is a file, for Caffe upgrades old forms only in files.
    """
    inline = document.root.all("net_param") or document.root.all("train_net_param")
    field = "net_param" if inline else "train_net_param"
    return _with_net(_without(document, _NOT_A_PEERS_BUSINESS), net_text, field)


def _without(document: Document, names: Set[str]) -> str:
    spans = {(entry.start, entry.end) for entry in document.root.fields if entry.name in names}
    return edited(document.text, [(start, end, "") for start, end in spans]).rstrip()


def _with_net(solver_text: str, net_text: str, field: str) -> str:
    return (
        f"{solver_text}\ntest_initialization: false\nsnapshot_after_train: false\n"
        f"{field} {{\n{net_text.rstrip()}\n}}\n"
    )
