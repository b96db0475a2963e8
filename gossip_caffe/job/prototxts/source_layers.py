"""The supported source layers, by type: each layer's text is parsed into a request for data, with file and line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from gossip_caffe.job.prototxts.annotated_layer import read_boxes
from gossip_caffe.job.prototxts.nets import SOURCE_TYPES, Layer
from gossip_caffe.job.prototxts.paths import Paths
from gossip_caffe.job.prototxts.prototxt import Document, Field
from gossip_caffe.job.spec.spec import ANNOTATED, ImageSpec, SourceSpec, TopSpec, TransformSpec

_UNSUPPORTED_TRANSFORMS = (
    *("crop_h", "crop_w", "noise_param", "emit_constraint", "old_resize_param"),
    *("resize_param", "distort_param", "expand_param"),
)
FED_TYPES = frozenset({"Input", "MemoryData"})
_BACKENDS = {"LEVELDB": "leveldb", "0": "leveldb", "LMDB": "lmdb", "1": "lmdb"}


@dataclasses.dataclass(frozen=True, slots=True)
class SourceRequest:
    """The data that a source layer asks for, before the data was opened; and the place that messages name."""

    spec: SourceSpec
    batch_records: int
    place: Field


@dataclasses.dataclass(frozen=True, slots=True)
class Fed:
    """The data for layers that a program fills in plain Caffe (Input, MemoryData).

    ``dataset``: "module:callable" of a user-defined data set, or "". ``first``: the index of the next unused value of
    its records.
    """

    dataset: str = ""
    first: int = 0


def is_read_here(layer: Layer) -> bool:
    """True if this program reads the layer's data, and not Caffe."""
    return layer.type in _READERS


def read_source(net: Document, layer: Layer, paths: Paths, fed: Fed) -> SourceRequest:
    """Parse one source layer by its type. Raises ModelError with the line of a wrong or unsupported field."""
    if layer.type in FED_TYPES:
        return _read_fed(net, layer, paths, fed)
    reader = _READERS.get(layer.type)
    if reader is None and layer.type not in SOURCE_TYPES:
        what = (
            f"layer {layer.name!r} has no bottom, and {layer.type!r} is no type of Caffe's that brings data"
        )
        raise net.error(layer.place.start, what, "correct the type, or give the layer its bottom")
    if reader is None:
        what = f"layer {layer.name!r} brings data as {layer.type}, which cannot be shared out among peers"
        raise net.error(layer.place.start, what, _WAY_OUT.get(layer.type, _WAY_OUT[""]))
    return reader(net, layer, paths)


def _read_database(net: Document, layer: Layer, paths: Paths) -> SourceRequest:
    at, called = layer.place.start, f"layer {layer.name!r}"
    entry = _source_entry(net, layer, "data_param", "name the LMDB there")
    param = layer.fields.message("data_param")
    backend = param.text("backend", "LEVELDB") if param else ""
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


def _read_annotated(net: Document, layer: Layer, paths: Paths) -> SourceRequest:
    request = _read_database(net, layer, paths)
    spec = request.spec
    spec = dataclasses.replace(spec, kind=ANNOTATED[spec.kind], boxes=read_boxes(net, layer))
    return dataclasses.replace(request, spec=spec)


def _read_hdf5(net: Document, layer: Layer, paths: Paths) -> SourceRequest:
    entry = _source_entry(net, layer, "hdf5_data_param", "name the list of HDF5 files there")
    if (transform := layer.fields.last("transform_param")) is not None:
        what = f"layer {layer.name!r}: Caffe transforms no HDF5 data"
        raise net.error(transform.start, what, "remove transform_param")
    spec = SourceSpec(
        layer=layer.name,
        kind="hdf5",
        path=str(paths.resolve(net.scalar_of(entry).text)),
        tops=unshaped(layer),
        folder=str(paths.working),
    )
    return SourceRequest(spec, batch_size(net, layer, "hdf5_data_param"), entry)


def _read_images(net: Document, layer: Layer, paths: Paths) -> SourceRequest:
    entry = _source_entry(net, layer, "image_data_param", "name the list of images there")
    param = layer.fields.message("image_data_param")
    height, width = (param.integer(name) if param else 0 for name in ("new_height", "new_width"))
    if (height > 0) != (width > 0):
        what = f"layer {layer.name!r} has only one of new_height and new_width"
        raise net.error(entry.start, what, "give both, or none")
    if len(layer.tops) != 2:
        what = f"layer {layer.name!r} has {len(layer.tops)} tops"
        raise net.error(layer.place.start, what, "give data and label")
    spec = SourceSpec(
        layer=layer.name,
        kind="images",
        path=str(paths.resolve(net.scalar_of(entry).text)),
        tops=unshaped(layer),
        transform=read_transform(net, layer, paths),
        image=ImageSpec(
            root_folder=param.text("root_folder") if param else "",
            height=height,
            width=width,
            color=param.boolean("is_color", default=True) if param else True,
        ),
        folder=str(paths.working),
    )
    return SourceRequest(spec, batch_size(net, layer, "image_data_param"), entry)


def _read_fed(net: Document, layer: Layer, paths: Paths, fed: Fed) -> SourceRequest:
    if not fed.dataset:
        article = "an" if layer.type == "Input" else "a"
        what = f"layer {layer.name!r} is {article} {layer.type} layer: no data set is given for it"
        raise net.error(layer.place.start, what, "give --dataset MODULE:CALLABLE, see docs/data.md")
    shapes = _memory_shapes(net, layer) if layer.type == "MemoryData" else _input_shapes(net, layer)
    batches = {shape[0] for shape in shapes}
    if len(batches) != 1 or not min(batches) > 0:
        what = f"the tops of layer {layer.name!r} begin with the dimensions {sorted(batches)}"
        raise net.error(layer.place.start, what, "give all of them one batch size as the first")
    tops = tuple(TopSpec(top, shape[1:]) for top, shape in zip(layer.tops, shapes, strict=True))
    spec = SourceSpec(layer.name, "dataset", fed.dataset, tops, folder=str(paths.working), first=fed.first)
    return SourceRequest(spec, batches.pop(), layer.place)


def _memory_shapes(net: Document, layer: Layer) -> list[tuple[int, ...]]:
    param = layer.fields.message("memory_data_param")
    names = ("batch_size", "channels", "height", "width")
    shape = tuple(param.integer(name) if param else 0 for name in names)
    if min(shape) <= 0 or len(layer.tops) != 2:
        what = f"layer {layer.name!r} needs batch_size, channels, height, width, and two tops"
        raise net.error(layer.place.start, what, "add them to memory_data_param")
    return [shape, shape[:1]]


def _input_shapes(net: Document, layer: Layer) -> list[tuple[int, ...]]:
    param = layer.fields.message("input_param")
    shapes = [
        tuple(net.integer_of(entry) for entry in shape.all("dim"))
        for shape in (param.messages("shape") if param else ())
    ]
    if len(shapes) == 1:
        shapes *= len(layer.tops)
    if len(shapes) != len(layer.tops) or not all(shapes):
        what = f"layer {layer.name!r} has {len(layer.tops)} tops and {len(shapes)} shapes"
        raise net.error(layer.place.start, what, "give input_param one shape, or one for each top")
    return shapes


def _source_entry(net: Document, layer: Layer, param_name: str, remedy: str) -> Field:
    param = layer.fields.message(param_name)
    entry = param.last("source") if param else None
    if entry is None:
        raise net.error(layer.place.start, f"layer {layer.name!r} has no {param_name}.source", remedy)
    return entry


def unshaped(layer: Layer) -> tuple[TopSpec, ...]:
    """A layer's tops, with the shapes left empty until the data is read."""
    return tuple(TopSpec(top, ()) for top in layer.tops)


def batch_size(net: Document, layer: Layer, param_name: str) -> int:
    """A layer's batch size. Raises ModelError when it has none."""
    param = layer.fields.message(param_name)
    batch = param.integer("batch_size") if param else 0
    if batch <= 0:
        raise net.error(
            layer.place.start, f"layer {layer.name!r} has no batch_size", f"add {param_name}.batch_size"
        )
    return batch


def read_transform(net: Document, layer: Layer, paths: Paths) -> TransformSpec:
    """A data layer's transform_param. Raises ModelError with the line of an unsupported field."""
    param = layer.fields.message("transform_param")
    if param is None:
        return TransformSpec()
    for name in _UNSUPPORTED_TRANSFORMS:
        if name == "emit_constraint" and layer.type == "AnnotatedData":
            continue
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


_READERS: dict[str, Callable[[Document, Layer, Paths], SourceRequest]] = {
    "Data": _read_database,
    "AnnotatedData": _read_annotated,
    "HDF5Data": _read_hdf5,
    "ImageData": _read_images,
}
_WAY_OUT = {
    "WindowData": "cut the windows out once, into an LMDB for a Data layer, or fill Input layers with --dataset",
    "": 'convert the data to LMDB and use a layer of type "Data"',
}
