"""Forward passes of a tested net that check the labels which Caffe's own data layers read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from gossip_caffe.data.labels import check_labels
from gossip_caffe.data.test_phase import where_in_lmdb
from gossip_caffe.job.prototxts.labels.bounds import label_bounds
from gossip_caffe.job.prototxts.nets import Layer, brings_data
from gossip_caffe.job.spec.spec import FedLayer, LabelBound, TopSpec


class TestedLabels:
    """Runs a net's forward passes, and checks labels in between.

    ``net``: the caffe.Net; ``layers``: the layers of its text; ``known``: the known source layers, with their data.
    """

    __test__ = False  # pytest must not collect it for its name

    def __init__(self, net: Any, layers: Sequence[Layer], known: Sequence[FedLayer]) -> None:
        shapes = {name: [int(size) for size in blob.shape] for name, blob in net.blobs.items()}
        self._net = net
        self._bounds = label_bounds(layers, shapes)
        self._tops = {layer.name: layer.tops for layer in layers if brings_data(layer)}
        self._known = {fed.source.layer: fed for fed in known}
        self._last = len(net.layers) - 1
        self._passes = 0
        self._stops: list[tuple[int, str]] = []

    def of(self, layer: str) -> tuple[LabelBound, ...]:
        """Return the bounds of the labels in the tops of a source layer."""
        numbers = range(len(self._tops.get(layer, ())))
        return tuple(bound for number in numbers for bound in self._bounds.get((layer, number), ()))

    def watch(self, by_caffe: Sequence[str], passes: int) -> None:
        """Check the labels that these layers read from now on; they have read ``passes`` batches already."""
        names = list(self._net._layer_names)
        self._stops = sorted((names.index(layer), layer) for layer in by_caffe if self.of(layer))
        self._passes = passes

    def forward(self) -> np.float32:
        """Run one pass. Returns the loss. Raises CorruptRecord, naming the record, for a label out of bounds."""
        loss, begin = np.float32(0), 0
        for stop, layer in self._stops:
            loss += np.float32(self._net._forward(begin, stop))
            self._look(layer)
            begin = stop + 1
        if begin <= self._last:
            loss += np.float32(self._net._forward(begin, self._last))
        self._passes += 1
        return loss

    def _look(self, layer: str) -> None:
        tops = [TopSpec(name, ()) for name in self._tops[layer]]
        values = [self._net.blobs[top.name].data for top in tops]
        check_labels(self.of(layer), tops, values, partial(self._where, layer))

    def _where(self, layer: str, row: int) -> str:
        fed = self._known.get(layer)
        if fed is None:
            return f"layer {layer!r}, record {row} of batch {self._passes}"
        index = (self._passes * fed.batch_records + row) % fed.source.records
        if fed.source.kind == "lmdb":
            return where_in_lmdb(fed, index)
        return f"{fed.source.path}, record {index}"
