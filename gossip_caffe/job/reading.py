"""From a user's solver.prototxt to a job: all checks that need no Caffe; messages name file and line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from gossip_caffe.errors import DataError
from gossip_caffe.job.chunking import choose_chunk_records
from gossip_caffe.job.nets import Layer, NetState, brings_data, included, layers_of, source_layer
from gossip_caffe.job.paths import Paths, read_text
from gossip_caffe.job.prototxt import Document, edited
from gossip_caffe.job.rewriting import net_for_peer, quoted, solver_for_peer
from gossip_caffe.job.solvers import rate_schedule, solver_type, test_net, train_net
from gossip_caffe.job.spec import DataSpec, JobSettings, JobSpec, TopSpec, TransformSpec

_UNSUPPORTED_TRANSFORMS = (
    *("crop_h", "crop_w", "force_color", "force_gray", "noise_param", "emit_constraint", "old_resize_param"),
)
_NAMING_FILES = ("data_param", "transform_param", "hdf5_data_param", "image_data_param", "window_data_param")


class DataSet(Protocol):
    """What must be known of a data set to cut it into chunks; the data room reads it."""

    @property
    def records(self) -> int:
        """How many records it has."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the first record."""
        ...

    def check(self, transform: TransformSpec) -> None:
        """Raise DataError when the transformation cannot be applied to its records."""
        ...

    def chunk_keys(self, chunk_records: int) -> tuple[str, ...]:
        """Hexadecimal key of the first record of each chunk."""
        ...


OpenDataSet = Callable[[str, str], DataSet]
"""Opens (backend, path); raises DataError. ``gossip_caffe.data.source.open_data_set`` is the real one."""


def read_job(
    name: str, path: Path, settings: JobSettings, open_data: OpenDataSet, working: Path | None = None
) -> JobSpec:
    """Read the job that a solver file describes.

    Relative paths in it begin at ``working`` (the current folder), as for Caffe, and else at the solver's
    folder. Raises ModelError or DataError with file and line.
    """
    working = working or Path.cwd()
    paths = Paths(path.absolute().parent, working.absolute())
    solver = Document(read_text(path, "solver"), paths.shown(path))
    root = solver.root
    schedule, kind = rate_schedule(solver), solver_type(solver)
    iter_size = root.integer("iter_size", 1)
    if root.integer("random_seed", -1) >= 0 and settings.seed == JobSettings().seed:
        settings = dataclasses.replace(settings, seed=root.integer("random_seed") % 2**31)
    net = train_net(solver, paths)
    state = NetState("TRAIN").merged(net.root.message("state")).merged(root.message("train_state"))
    source = source_layer(net, net.root, state)
    data = read_data(net, source, paths, iter_size, open_data)
    test_iter = root.all("test_iter")
    return JobSpec(
        name=name,
        solver_text=solver.text,
        train_net_text=located(net, paths),
        solver_for_peer=solver_for_peer(solver, net_for_peer(net, source)),
        test_net_text=read_test_net(solver, net, paths),
        test_iter=solver.integer_of(test_iter[0]) if test_iter else 0,
        solver_type=kind,
        iter_size=iter_size,
        budget_samples=schedule.max_iter * data.batch_records * iter_size,
        data=data,
        schedule=schedule,
        settings=settings,
    )


def read_data(net: Document, layer: Layer, paths: Paths, iter_size: int, open_data: OpenDataSet) -> DataSpec:
    """Read the data layer and its data set. Raises ModelError or DataError with file and line."""
    at, called = layer.place.start, f"layer {layer.name!r}"
    param = layer.fields.message("data_param")
    entry = param.last("source") if param else None
    if param is None or entry is None:
        raise net.error(at, f"{called} has no data_param.source", "name the LMDB there")
    backend = param.text("backend", "LEVELDB")
    if backend not in {"LMDB", "1"}:
        raise net.error(at, f"{called} reads {backend}", "use backend: LMDB, others are not supported yet")
    batch = param.integer("batch_size")
    if batch <= 0:
        raise net.error(at, f"{called} has no batch_size", "add data_param.batch_size")
    if not 1 <= len(layer.tops) <= 2:
        raise net.error(at, f"{called} has {len(layer.tops)} tops", "give data and label")
    transform = read_transform(net, layer, paths)
    source = str(paths.resolve(net.scalar_of(entry).text))
    try:
        data = open_data("lmdb", source)
        data.check(transform)
        channels, height, width = data.shape
        chunk_records = choose_chunk_records(data.records, batch, iter_size)
        chunk_keys = data.chunk_keys(chunk_records)
    except DataError as error:
        line, _ = net.place(entry.start)
        raise DataError(f"{net.name}:{line}: {called}: {error.message}", remedy=error.remedy) from None
    if batch > data.records:
        what = f"batch_size {batch} exceeds the {data.records} records of {source}"
        raise net.error(at, what, "choose a smaller batch")
    crop = transform.crop_size
    shapes = [(channels, crop or height, crop or width), ()]
    return DataSpec(
        layer=layer.name,
        backend="lmdb",
        source=source,
        records=data.records,
        chunk_records=chunk_records,
        chunk_keys=chunk_keys,
        batch_records=batch,
        tops=tuple(TopSpec(top, shape) for top, shape in zip(layer.tops, shapes, strict=False)),
        transform=transform,
    )


def read_transform(net: Document, layer: Layer, paths: Paths) -> TransformSpec:
    """Read a data layer's transform_param. Raises ModelError for what is not supported, with its line."""
    param = layer.fields.message("transform_param")
    if param is None:
        return TransformSpec()
    for name in _UNSUPPORTED_TRANSFORMS:
        if (entry := param.last(name)) is not None:
            remedy = "apply it when the data set is written"
            raise net.error(entry.start, f"{name} is not supported yet", remedy)
    mean_file, mean_values = param.last("mean_file"), param.all("mean_value")
    if mean_file is not None and mean_values:
        raise net.error(mean_file.start, "mean_file and mean_value exclude each other", "keep one of them")
    mean_path = paths.resolve(net.scalar_of(mean_file).text) if mean_file else None
    if mean_file is not None and mean_path is not None and not mean_path.is_file():
        raise net.error(mean_file.start, f"there is no mean file at {mean_path}", "check the path")
    return TransformSpec(
        scale=param.number("scale", 1.0),
        mirror=param.boolean("mirror"),
        crop_size=param.integer("crop_size"),
        mean_values=tuple(net.number_of(entry) for entry in mean_values),
        mean_file=str(mean_path or ""),
    )


def read_test_net(solver: Document, trained: Document, paths: Paths) -> str:
    """Read the text of the net that is tested, "" when none is. Raises DataError for a missing LMDB."""
    net = test_net(solver, trained, paths)
    if net is None:
        return ""
    own = net.root.message("state")
    given = solver.root.message("test_state")
    state = NetState("TEST").merged(own).merged(given)
    sources = [layer for layer in layers_of(net.root) if included(layer.fields, state) and brings_data(layer)]
    if not sources:
        return ""
    for layer in sources:
        param = layer.fields.message("data_param")
        entry = param.last("source") if param else None
        if entry is not None and not (folder := paths.resolve(net.scalar_of(entry).text)).exists():
            line, _ = net.place(entry.start)
            what = f"{net.name}:{line}: layer {layer.name!r}: there is no data set at {folder}"
            raise DataError(what, remedy="check data_param.source, or write the data set")
    text = located(net, paths)
    if given is None or own is not None:
        return text
    stages = "".join(f" stage: {quoted(stage)}" for stage in sorted(state.stages))
    return f"{text.rstrip()}\nstate {{ level: {state.level}{stages} }}\n"


def located(net: Document, paths: Paths) -> str:
    """Rewrite a net with its data layers' paths made absolute, so that it can be read from any folder."""
    edits = []
    for layer in layers_of(net.root):
        for name in _NAMING_FILES:
            message = layer.fields.message(name)
            for entry in () if message is None else (*message.all("source"), *message.all("mean_file")):
                path = paths.resolve(net.scalar_of(entry).text)
                edits.append((entry.start, entry.end, f"{entry.name}: {quoted(str(path))}"))
    return edited(net.text, edits)
