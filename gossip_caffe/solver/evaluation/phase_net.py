"""A net in one phase, built by Caffe, with readers for the data that not every Caffe can read."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gossip_caffe.data.test_phase import TestReader, is_to_be_fed
from gossip_caffe.job.prototxts.nets import Layer, NetState, present
from gossip_caffe.job.prototxts.prototxt import Document
from gossip_caffe.job.prototxts.rewriting import net_to_feed
from gossip_caffe.job.spec.spec import NetTest, SourceSpec
from gossip_caffe.solver.engines.place import ALONE
from gossip_caffe.solver.engines.user_layers import tell_place
from gossip_caffe.solver.gpu.device import gpu_index


@dataclass(frozen=True, slots=True)
class PhaseOfNet:
    """``net``: the caffe.Net; ``layers``: the layers of its text; ``readers``: those of the layers that are fed."""

    net: Any
    layers: Sequence[Layer]
    readers: Sequence[tuple[TestReader, SourceSpec]]


def built(test: NetTest, device: str, phase: str = "TEST", *, debug_info: bool = False) -> PhaseOfNet:
    """Build the net of ``test`` on a device. A net that Caffe refuses ends the process.

    ``debug_info``: print each layer's values, as the nets of Caffe's Solver::InitTestNets do.
    """
    import caffe  # noqa: PLC0415 - slow: a mistake in the message is found without it

    from gossip_caffe.solver.engines.pycaffe_engine import as_file, compute_on  # noqa: PLC0415

    compute_on(gpu_index(device))
    tell_place(caffe, ALONE)
    fed = [layer for layer in test.fed if is_to_be_fed(layer)]
    document = Document(test.text, f"the {phase} net")
    layers = present(document.root, NetState(phase, test.level, frozenset(test.stages)))
    text = net_to_feed(document, layers, fed)
    if debug_info and document.root.last("debug_info") is None:
        text += "\ndebug_info: true\n"
    with contextlib.ExitStack() as files:
        path = as_file(text, "net", files)
        net = caffe.Net(path, getattr(caffe, phase), level=test.level, stages=list(test.stages))
    return PhaseOfNet(net, layers, [(TestReader(layer), layer.source) for layer in fed])
