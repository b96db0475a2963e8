"""From the source layers of a TRAIN net to the specs of their data; messages name file and line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from gossip_caffe.errors import DataError
from gossip_caffe.job.chunking import choose_chunk_records
from gossip_caffe.job.nets import Layer
from gossip_caffe.job.paths import Paths
from gossip_caffe.job.prototxt import Document, Field
from gossip_caffe.job.spec import DataSpec, SourceSpec, TopSpec, TransformSpec

_UNSUPPORTED_TRANSFORMS = ("crop_h", "crop_w", "noise_param", "emit_constraint", "old_resize_param")
_BACKENDS = {"LEVELDB": "leveldb", "0": "leveldb", "LMDB": "lmdb", "1": "lmdb"}


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


@dataclasses.dataclass(frozen=True, slots=True)
class SourceRequest:
    """What a source layer asks for: its spec before anybody looked at the data, and where messages point."""

    spec: SourceSpec
    batch_records: int
    place: Field


def read_data(
    net: Document, layers: Sequence[Layer], paths: Paths, iter_size: int, passes: int, measure: Measure
) -> DataSpec:
    """Read the source layers and look at their data. Raises ModelError or DataError with file and line.

    Without source layers the net makes its own data: a record is then a pass, and there are ``passes`` of them.
    """
    requests = [read_source(net, layer, paths) for layer in layers]
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


def read_shapes(
    net: Document, layer: Layer, paths: Paths, measure: Measure
) -> tuple[tuple[TopSpec, ...], int]:
    """What a layer's data would be in a batch: its tops with the shapes of a record, and records in a batch.

    Raises ModelError or DataError with file and line.
    """
    request = read_source(net, layer, paths)
    data = _measured(net, request, measure)
    tops = (TopSpec(top.name, shape) for top, shape in zip(request.spec.tops, data.shapes, strict=True))
    return tuple(tops), request.batch_records


def is_read_here(layer: Layer) -> bool:
    """Tell whether a layer's data is read by us, and not by Caffe."""
    return layer.type in _READERS


def _measured(net: Document, request: SourceRequest, measure: Measure) -> DataSet:
    try:
        return measure(request.spec)
    except DataError as error:
        line, _ = net.place(request.place.start)
        what = f"{net.name}:{line}: layer {request.spec.layer!r}: {error.message}"
        raise DataError(what, remedy=error.remedy) from None


def read_source(net: Document, layer: Layer, paths: Paths) -> SourceRequest:
    """Read one source layer by its type. Raises ModelError with the line of what is wrong or not supported."""
    reader = _READERS.get(layer.type)
    if reader is None:
        what = f"layer {layer.name!r} brings data as {layer.type}"
        raise net.error(layer.place.start, what, 'convert the data to LMDB and use a layer of type "Data"')
    return reader(net, layer, paths)


def _read_database(net: Document, layer: Layer, paths: Paths) -> SourceRequest:
    at, called = layer.place.start, f"layer {layer.name!r}"
    param = layer.fields.message("data_param")
    entry = param.last("source") if param else None
    if param is None or entry is None:
        raise net.error(at, f"{called} has no data_param.source", "name the LMDB there")
    backend = param.text("backend", "LEVELDB")
    if backend not in _BACKENDS:
        raise net.error(at, f"{called} reads {backend}", "use backend: LMDB or LEVELDB")
    if not 1 <= len(layer.tops) <= 2:
        raise net.error(at, f"{called} has {len(layer.tops)} tops", "give data and label")
    spec = SourceSpec(
        layer=layer.name,
        kind=_BACKENDS[backend],
        path=str(paths.resolve(net.scalar_of(entry).text)),
        tops=unshaped(layer),
        transform=read_transform(net, layer, paths),
    )
    return SourceRequest(spec, batch_size(net, layer, "data_param"), entry)


def unshaped(layer: Layer) -> tuple[TopSpec, ...]:
    """The tops of a layer, whose shapes are not known before the data is read."""
    return tuple(TopSpec(top, ()) for top in layer.tops)


def batch_size(net: Document, layer: Layer, param_name: str) -> int:
    """Read a layer's batch size. Raises ModelError when it has none."""
    param = layer.fields.message(param_name)
    batch = param.integer("batch_size") if param else 0
    if batch <= 0:
        raise net.error(
            layer.place.start, f"layer {layer.name!r} has no batch_size", f"add {param_name}.batch_size"
        )
    return batch


def read_transform(net: Document, layer: Layer, paths: Paths) -> TransformSpec:
    """Read a data layer's transform_param. Raises ModelError for what is not supported, with its line."""
    param = layer.fields.message("transform_param")
    if param is None:
        return TransformSpec()
    for name in _UNSUPPORTED_TRANSFORMS:
        if (entry := param.last(name)) is not None:
            raise net.error(
                entry.start, f"{name} is not BVLC Caffe's", "apply it when the data set is written"
            )
    mean_file, mean_values = param.last("mean_file"), param.all("mean_value")
    if mean_file is not None and mean_values:
        raise net.error(mean_file.start, "mean_file and mean_value exclude each other", "keep one of them")
    force_color, force_gray = param.last("force_color"), param.last("force_gray")
    if force_color is not None and force_gray is not None:
        raise net.error(force_gray.start, "force_color and force_gray exclude each other", "keep one of them")
    mean_path = paths.resolve(net.scalar_of(mean_file).text) if mean_file else None
    if mean_file is not None and mean_path is not None and not mean_path.is_file():
        raise net.error(mean_file.start, f"there is no mean file at {mean_path}", "check the path")
    return TransformSpec(
        scale=param.number("scale", 1.0),
        mirror=param.boolean("mirror"),
        crop_size=param.integer("crop_size"),
        mean_values=tuple(net.number_of(entry) for entry in mean_values),
        mean_file=str(mean_path or ""),
        force_color=param.boolean("force_color"),
        force_gray=param.boolean("force_gray"),
    )


_READERS: dict[str, Callable[[Document, Layer, Paths], SourceRequest]] = {"Data": _read_database}
