"""The two changes that turn a user's solver into a peer's solver.

The source layers are replaced by layers that read from the ring. Fields for testing, snapshots and display are
removed, because peers do these themselves. All other text stays byte for byte, so Caffe trains the user's net.
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Set

from gossip_caffe.job.prototxts.nets import Layer
from gossip_caffe.job.prototxts.prototxt import Document, edited
from gossip_caffe.job.spec.spec import FedLayer, TopSpec

SOURCE_MODULE = "gossip_caffe.solver.engines.source_layer"
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
            "show_per_class_result",
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
    """The text of the Python layer that replaces a source layer, with the same name, tops and phase.

    ``first_top``: the index of the layer's first top among the ring's tops.
    """
    tops = " ".join(f"top: {quoted(top)}" for top in source.tops)
    return (
        f'layer {{ name: {quoted(source.name)} type: "Python" {tops} include {{ phase: TRAIN }} '
        f'python_param {{ module: "{SOURCE_MODULE}" layer: "{SOURCE_CLASS}" '
        f'param_str: "{first_top}:{len(source.tops)}" }} }}'
    )


def shape_layer(fed: FedLayer) -> str:
    """The text of a layer with a source layer's name and the shapes of its tops, but without data."""
    tops = fed.source.tops
    names = " ".join(f"top: {quoted(top.name)}" for top in tops)
    shapes = " ".join(
        f"shape {{ {' '.join(f'dim: {size}' for size in whole_shape(top, fed.batch_records))} }}"
        for top in tops
    )
    return f'layer {{ name: {quoted(fed.source.layer)} type: "Input" {names} input_param {{ {shapes} }} }}'


def whole_shape(top: TopSpec, records: int) -> tuple[int, ...]:
    """The shape of a top for a batch of ``records`` records; of a top of boxes: that for a single box."""
    return (1, 1, 1, top.shape[-1]) if top.boxes else (records, *top.shape)


def quoted(text: str) -> str:
    """A string value in the text format."""
    # JSON's escapes are valid in the text format, except for those that ensure_ascii would add.
    return json.dumps(text, ensure_ascii=False)


def net_to_feed(document: Document, layers: Sequence[Layer], fed: Sequence[FedLayer]) -> str:
    """The net's text, with each layer of ``layers`` that is in ``fed`` replaced by a layer without data."""
    by_name = {layer.source.layer: layer for layer in fed}
    edits = [
        (layer.place.start, layer.place.end, shape_layer(by_name[layer.name]))
        for layer in layers
        if layer.name in by_name and not layer.fields.all("bottom")
    ]
    return edited(document.text, edits)


def net_for_peer(document: Document, sources: Sequence[Layer]) -> str:
    """The net's text with its source layers replaced by ring layers."""
    edits, first_top = [], 0
    for source in sources:
        edits.append((source.place.start, source.place.end, ring_layer(source, first_top)))
        first_top += len(source.tops)
    return edited(document.text, edits)


def solver_for_peer(document: Document, net_text: str) -> str:
    """The solver's text without the fields that a peer does not use, and with its net inlined.

    The field depends on the net's origin: ``net_param`` when the user's solver holds the net, ``train_net_param`` when
    it is a file, because Caffe upgrades old formats only in files.
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
