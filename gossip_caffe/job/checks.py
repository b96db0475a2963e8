"""Checks of a model that need Caffe's list of layer types, made before Caffe builds the net."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

from gossip_caffe.errors import ModelError
from gossip_caffe.job.prototxts.nets import Layer
from gossip_caffe.job.prototxts.source_layers import is_read_here
from gossip_caffe.job.reading import PhaseNet

_ALIKE = 0.6


def check_layer_types(nets: Sequence[PhaseNet], known: Collection[str]) -> None:
    """Raise ModelError for the first layer whose type Caffe lacks. The message suggests a type with a similar name."""
    for net in nets:
        for layer in net.layers:
            if layer.type in known or is_read_here(layer):
                continue
            entry = layer.fields.last("type")
            at = entry.start if entry is not None else layer.place.start
            what = f"layer {layer.name!r} has the unknown type {layer.type!r}"
            if entry is None:
                what = f"layer {layer.name!r} has no type"
            raise net.document.error(at, what, _meant(layer.type, known))


def _meant(written: str, known: Collection[str]) -> str:
    by_lower = {name.lower(): name for name in sorted(known)}
    found = difflib.get_close_matches(written.lower(), by_lower, n=1, cutoff=_ALIKE)
    if found:
        return f"did you mean {by_lower[found[0]]!r}?"
    return "use a layer type that this Caffe has: 'gossip-caffe doctor' says which Caffe it is"


def check_loss(net: PhaseNet) -> None:
    """Raise ModelError when a net has no loss: no layer of a loss type, and no layer with a loss_weight."""
    if not any(_is_loss(layer) for layer in net.layers):
        raise no_loss(net)


def no_loss(net: PhaseNet) -> ModelError:
    """The error for a net without a loss."""
    layers = net.layers
    at = layers[-1].place.start if layers else 0
    return net.document.error(
        at,
        f"the {net.state.phase} net has no loss, so it would learn nothing",
        'end it with a layer like "SoftmaxWithLoss", or give a top a loss_weight',
    )


def check_names(net: PhaseNet, learned: Sequence[str]) -> None:
    """Raise ModelError when two layers with weights have the same name.

    ``learned``: the names of the layers with weights.
    """
    twice = next((name for name in learned if learned.count(name) > 1), None)
    if twice is None:
        return
    same = [layer for layer in net.layers if layer.name == twice]
    at = same[-1].place.start if same else 0
    what = f"two layers with weights are named {twice!r}"
    raise net.document.error(
        at, what, "give each its own name: Caffe finds a layer's weights in a model by the layer's name"
    )


def _is_loss(layer: Layer) -> bool:
    weights = layer.fields.all("loss_weight")
    if weights:
        return any(layer.fields.document.number_of(entry) != 0 for entry in weights)
    return layer.type.endswith("Loss")
