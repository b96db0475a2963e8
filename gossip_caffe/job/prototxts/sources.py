"""From the source layers of a TRAIN net to the specs of their data. Messages name file and line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from gossip_caffe.errors import DataError, UsageError
from gossip_caffe.job.prototxts.nets import Layer
from gossip_caffe.job.prototxts.paths import Paths
from gossip_caffe.job.prototxts.prototxt import Document
from gossip_caffe.job.prototxts.source_layers import FED_TYPES, Fed, SourceRequest, read_source
from gossip_caffe.job.spec.chunking import choose_chunk_records
from gossip_caffe.job.spec.spec import ANNOTATED, DataSpec, FedLayer, SourceSpec, TopSpec


class DataSet(Protocol):
    """The facts about a data set that are needed to cut it into chunks. ``gossip_caffe.data`` implements it."""

    @property
    def records(self) -> int:
        """The number of records."""
        ...

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of one record in each top of the layer, after the transformation."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of everything but the count that determines the records' numbering; "" where there is nothing."""
        ...

    def chunk_keys(self, chunk_records: int) -> tuple[str, ...]:
        """The key of each chunk's first record, in hexadecimal; empty where a record is found by its number."""
        ...


Measure = Callable[[SourceSpec], DataSet]
"""Opens a source and measures it. Raises DataError. The real one is ``gossip_caffe.data.sources.source.measure``."""


def read_data(
    net: Document,
    layers: Sequence[Layer],
    paths: Paths,
    iter_size: int,
    passes: int,
    all_passes: int,
    measure: Measure,
    dataset: str = "",
) -> DataSpec:
    """Parse the source layers and measure their data. Raises ModelError or DataError with file and line.

    A net without source layers generates its own data: a record is then one forward pass, and there are ``passes`` of
    them. ``all_passes``: all passes of the solver, including those before the snapshot from which it resumes. The
    chunks depend on it, so a resumed job cuts the data like the job that began.
    """
    if dataset and not any(layer.type in FED_TYPES for layer in layers):
        raise UsageError(
            f"--dataset {dataset}: {net.name} has no Input or MemoryData layer in TRAIN that it could fill",
            remedy="leave --dataset out, or replace the net's data layers by an Input layer",
        )
    requests = _requests(net, layers, paths, dataset)
    if not requests:
        return DataSpec((), passes, choose_chunk_records(passes, 1, iter_size, passes), 1)
    batch = max(request.batch_records for request in requests)
    measured = [_measured(net, request, measure) for request in requests]
    records = max(
        # An epoch of the source spans this many records of the job: the source's own number where its batch is the
        # job's.
        -(-data.records * batch // request.batch_records)
        for request, data in zip(requests, measured, strict=True)
    )
    chunk_records = choose_chunk_records(records, batch, iter_size, all_passes * batch)
    sources = []
    for request, data in zip(requests, measured, strict=True):
        spec = request.spec
        own = request.batch_records
        if own > data.records:
            what = f"batch_size {own} exceeds the {data.records} records of {spec.path}"
            raise net.error(request.place.start, what, "choose a smaller batch")
        tops = _shaped(spec, data)
        keys = data.chunk_keys(chunk_records)
        sources.append(
            dataclasses.replace(
                spec,
                tops=tops,
                records=data.records,
                chunk_keys=keys,
                digest=data.digest,
                batch_records=own if own != batch else 0,
            )
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
    """A source layer of a TEST net, with its measured data; ``to_read`` adds all facts that reading it needs.

    Raises ModelError or DataError with file and line.
    """
    request = read_source(net, layer, paths, Fed())
    data = _measured(net, request, measure)
    tops = _shaped(request.spec, data)
    keys = data.chunk_keys(data.records) if to_read else ()
    spec = dataclasses.replace(
        request.spec, tops=tops, records=data.records, chunk_keys=keys, digest=data.digest
    )
    return FedLayer(spec, request.batch_records)


def _shaped(spec: SourceSpec, data: DataSet) -> tuple[TopSpec, ...]:
    with_boxes = spec.kind in ANNOTATED.values()
    return tuple(
        TopSpec(top.name, shape, boxes=with_boxes and len(shape) == 2)
        for top, shape in zip(spec.tops, data.shapes, strict=True)
    )


def _measured(net: Document, request: SourceRequest, measure: Measure) -> DataSet:
    try:
        return measure(request.spec)
    except DataError as error:
        line, _ = net.place(request.place.start)
        what = f"{net.name}:{line}: layer {request.spec.layer!r}: {error.message}"
        raise DataError(what, remedy=error.remedy) from None
