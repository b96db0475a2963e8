"""Which parameters of a net no solver ever changes: those need not be exchanged."""

from __future__ import annotations

from gossip_caffe.job.nets import NetState, included
from gossip_caffe.job.prototxt import Message

_CHANGED_BY_THE_SOLVER_ONLY = frozenset(
    {
        *("Convolution", "Deconvolution", "InnerProduct", "Embed", "Scale", "Bias", "PReLU"),
        *("LSTM", "RNN", "Parameter"),
    }
)
"""Layers that never write to their own parameters; BatchNorm does, and a layer of the user's own may."""


def frozen_parameters(solver: Message) -> set[tuple[str, int]]:
    """Parameters with lr_mult 0 in the TRAIN phase of a solver that holds its net, as (layer, index).

    A blob that layers share is frozen when one of them says so: Caffe refuses a net in which another disagrees.
    """
    net = solver.message("train_net_param") or solver.message("net_param")
    if net is None:
        return set()
    state = NetState("TRAIN").merged(net.message("state")).merged(solver.message("train_state"))
    return {
        (layer.text("name"), index)
        for layer in net.messages("layer")
        if included(layer, state) and layer.text("type") in _CHANGED_BY_THE_SOLVER_ONLY
        for index, param in enumerate(layer.messages("param"))
        if param.last("lr_mult") is not None and param.number("lr_mult") == 0
    }
