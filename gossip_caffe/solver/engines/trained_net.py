"""Properties of the trained net that follow from the solver's text: frozen parameters, fixed batch sizes."""

from __future__ import annotations

from collections.abc import Iterable

from gossip_caffe.job.prototxts.nets import Layer, NetState, present
from gossip_caffe.job.prototxts.prototxt import TextMessage
from gossip_caffe.job.prototxts.rewriting import SOURCE_MODULE

_CHANGED_BY_THE_SOLVER_ONLY = frozenset(
    {
        *("Convolution", "Deconvolution", "InnerProduct", "Embed", "Scale", "Bias", "PReLU"),
        *("LSTM", "RNN", "Parameter"),
    }
)
"""Layers that never write to their own parameters. BatchNorm does, and a user's own layer may."""

_OF_ONE_SIZE = frozenset({"LSTM", "RNN", "DummyData", "Input", "MemoryData"})
"""Layers that fix the size of their batch, and recurrent layers, whose batch axis contains the time steps."""


def trained_layers(solver: TextMessage) -> list[Layer]:
    """Return the layers of the TRAIN phase; ``solver`` must contain its net."""
    net = solver.message("train_net_param") or solver.message("net_param")
    if net is None:
        return []
    return present(net, NetState("TRAIN").merged(net.message("state")).merged(solver.message("train_state")))


def frozen_parameters(layers: Iterable[Layer]) -> set[tuple[str, int]]:
    """Return the parameters with lr_mult 0, which no solver ever changes, as (layer, index).

    A blob that layers share is frozen when one of the layers has lr_mult 0: Caffe refuses a net in which they differ.
    """
    return {
        (layer.name, index)
        for layer in layers
        if layer.type in _CHANGED_BY_THE_SOLVER_ONLY
        for index, param in enumerate(layer.fields.messages("param"))
        if param.last("lr_mult") is not None and param.number("lr_mult") == 0
    }


def needs_whole_batches(layers: Iterable[Layer]) -> bool:
    """True if Caffe would abort on a batch with fewer records, because a layer fixes their number."""
    return any(_fixes_the_batch(layer) for layer in layers)


def _fixes_the_batch(layer: Layer) -> bool:
    match layer.type:
        case "Python":  # a user's own layer: unknown, so it counts as fixed
            param = layer.fields.message("python_param")
            return param is None or param.text("module") != SOURCE_MODULE
        case "Reshape":
            param = layer.fields.message("reshape_param")
            shape = param.message("shape") if param else None
            dims = shape.all("dim") if shape else []
            return bool(dims) and layer.fields.document.integer_of(dims[0]) > 0
        case "Slice":
            param = layer.fields.message("slice_param")
            return param is not None and 0 in {param.integer("axis", 1), param.integer("slice_dim", 1)}
        case kind:
            return kind in _OF_ONE_SIZE
