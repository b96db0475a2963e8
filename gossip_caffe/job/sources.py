"""From the source layers of a TRAIN net to the specs of their data; messages name file and line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from gossip_caffe.errors import DataError, UsageError
from gossip_caffe.job.chunking import choose_chunk_records
from gossip_caffe.job.nets import Layer
from gossip_caffe.job.paths import Paths
from gossip_caffe.job.prototxt import Document
from gossip_caffe.job.source_layers import FED_TYPES, Fed, SourceRequest, read_source
from gossip_caffe.job.spec import DataSpec, FedLayer, SourceSpec, TopSpec


class DataSet(Protocol):
    """What must be known of a data set to cut it into chunks; the data room reads it."""

    @property
    def records(self) -> int:
        """How many records it has."""
        ...

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of a record in each top of its layer, after the transformation."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of what the records' numbers depend on besides their count, or ""."""
        ...

    def chunk_keys(self, chunk_records: int) -> tuple[str, ...]:
        """Hexadecimal key of the first record of each chunk; empty where numbers are enough to find it."""
        ...


Measure = Callable[[SourceSpec], DataSet]
"""Opens a source; raises DataError. ``gossip_caffe.data.source.measure`` is the real one."""


def read_data(
    net: Document,
    layers: Sequence[Layer],
    paths: Paths,
    iter_size: int,
    passes: int,
    measure: Measure,
    dataset: str = "",
) -> DataSpec:
    """Read the source layers and look at their data. Raises ModelError or DataError with file and line.

    Without source layers the net makes its own data: a record is then a pass, and there are ``passes`` of them.
    """
    if dataset and not any(layer.type in FED_TYPES for layer in layers):
        raise UsageError(
            f"--dataset {dataset}: {net.name} has no Input or MemoryData layer in TRAIN that it could fill",
            remedy="leave --dataset out, or replace the net's data layers by an Input layer",
        )
    requests = _requests(net, layers, paths, dataset)
    if not requests:
        return DataSpec((), passes, choose_chunk_records(passes, 1, iter_size), 1)
    batch = requests[0].batch_records
    for request in requests:
        if request.batch_records != batch:
            first, other = requests[0].spec.layer, request.spec.layer
            what = f"layer {other!r} has batch_size {request.batch_records}, {first!r} has {batch}"
            raise net.error(request.place.start, what, "give all data layers of the net one batch_size")
    measured = [_measured(net, request, measure) for request in requests]
    records = max(data.records for data in measured)
    chunk_records = choose_chunk_records(records, batch, iter_size)
    sources = []
    for request, data in zip(requests, measured, strict=True):
        spec = request.spec
        if batch > data.records:
            what = f"batch_size {batch} exceeds the {data.records} records of {spec.path}"
            raise net.error(request.place.start, what, "choose a smaller batch")
        tops = tuple(TopSpec(top.name, shape) for top, shape in zip(spec.tops, data.shapes, strict=True))
        keys = data.chunk_keys(chunk_records)
        sources.append(
            dataclasses.replace(spec, tops=tops, records=data.records, chunk_keys=keys, digest=data.digest)
        )
    return DataSpec(tuple(sources), records, chunk_records, batch)


def _requests(net: Document, layers: Sequence[Layer], paths: Paths, dataset: str) -> list[SourceRequest]:
    requests, first = [], 0
    for layer in layers:
        requests.append(read_source(net, layer, paths, Fed(dataset, first)))
        first += len(layer.tops) if layer.type in FED_TYPES else 0
    return requests


def read_tested(
    net: Document, layer: Layer, paths: Paths, measure: Measure, *, to_read: bool = False
) -> FedLayer:
    """A source layer of a TEST net, and what is known of its data; with ``to_read`` all that reading it takes.

    Raises ModelError or DataError with file and line.
    """
    request = read_source(net, layer, paths, Fed())
    data = _measured(net, request, measure)
    tops = tuple(TopSpec(top.name, shape) for top, shape in zip(request.spec.tops, data.shapes, strict=True))
    keys = data.chunk_keys(data.records) if to_read else ()
    spec = dataclasses.replace(
        request.spec, tops=tops, records=data.records, chunk_keys=keys, digest=data.digest
    )
    return FedLayer(spec, request.batch_records)


def _measured(net: Document, request: SourceRequest, measure: Measure) -> DataSet:
    try:
        return measure(request.spec)
    except DataError as error:
        line, _ = net.place(request.place.start)
        what = f"{net.name}:{line}: layer {request.spec.layer!r}: {error.message}"
        raise DataError(what, remedy=error.remedy) from None
