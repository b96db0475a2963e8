"""From a user's solver.prototxt to a job: every check that needs no Caffe, and messages that name file and line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from gossip_caffe.errors import DataError, ModelError
from gossip_caffe.job.chunking import choose_chunk_records
from gossip_caffe.job.learning_rate import POLICIES
from gossip_caffe.job.nets import Layer, included, layers_of, source_layer
from gossip_caffe.job.prototxt import Document, edited
from gossip_caffe.job.rewriting import net_for_peer, solver_for_peer
from gossip_caffe.job.spec import DataSpec, JobSettings, JobSpec, RateSchedule, TopSpec, TransformSpec


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

    def chunk_keys(self, chunk_records: int) -> tuple[str, ...]:
        """Hexadecimal key of the first record of each chunk."""
        ...


OpenDataSet = Callable[[str, str], DataSet]
"""Opens (backend, path); raises DataError."""


def read_text(path: Path, what: str) -> str:
    """A file's text; raises ModelError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ModelError(f"there is no {what} at {path}", remedy="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot read the {what} {path} ({error})", remedy="check the file") from None


def resolve(name: str, folder: Path, working: Path) -> Path:
    """A path in a prototxt: as Caffe does, relative to the working folder; else to the folder of the solver."""
    path = Path(name)
    if path.is_absolute():
        return path
    return working / path if (working / path).exists() or not (folder / path).exists() else folder / path


def find_net(solver: Document, path: Path, working: Path) -> Document:
    """The solver's training net: in a file (net, train_net) or inline (net_param, train_net_param)."""
    named = [entry for entry in solver.root.fields if entry.name in {"net", "train_net", "net_param", "train_net_param"}]
    if len(named) != 1:
        at = named[1].start if named else 0
        what = "names several nets" if named else "names no net"
        raise solver.error(at, f"the solver {what}", "give exactly one of net, train_net, net_param, train_net_param")
    entry = named[0]
    if entry.name.endswith("param"):
        inline = solver.message_of(entry)
        if not inline.fields:
            raise solver.error(entry.start, f"{entry.name} is empty", "put the net's layers there")
        first, last = inline.fields[0].start, inline.fields[-1].end
        # The inline text keeps the solver's line numbers: what stands before it becomes empty lines.
        return Document("\n" * solver.text[:first].count("\n") + solver.text[first:last], solver.name)
    net_path = resolve(solver.scalar_of(entry).text, path.parent, working)
    if not net_path.exists():
        raise solver.error(entry.start, f"there is no net at {net_path}", "check the path")
    return Document(read_text(net_path, "net"), str(net_path))


def read_schedule(solver: Document) -> RateSchedule:
    """The learning-rate policy; raises ModelError for what Caffe would abort on later."""
    root = solver.root
    policy = root.text("lr_policy")
    if policy not in POLICIES:
        at = entry.start if (entry := root.last("lr_policy")) else 0
        raise solver.error(at, f"lr_policy is {policy!r}", f"use one of {', '.join(POLICIES)}")
    for name, wanted in (("base_lr", True), ("max_iter", True), ("stepsize", policy == "step")):
        if wanted and root.number(name) <= 0:
            at = entry.start if (entry := root.last(name)) else 0
            raise solver.error(at, f"{name} must be given and positive", f"add {name}: VALUE")
    return RateSchedule(
        policy=policy,
        base_lr=root.number("base_lr"),
        gamma=root.number("gamma"),
        power=root.number("power"),
        stepsize=root.integer("stepsize"),
        stepvalues=tuple(solver.integer_of(entry) for entry in root.all("stepvalue")),
        max_iter=root.integer("max_iter"),
    )


def read_transform(net: Document, layer: Layer, folder: Path, working: Path) -> TransformSpec:
    """A data layer's transform_param (or the fields of data_param that came before it)."""
    param = layer.fields.message("transform_param") or layer.fields.message("data_param")
    if param is None:
        return TransformSpec()
    for name in ("crop_h", "crop_w", "force_color", "force_gray", "noise_param", "emit_constraint", "old_resize_param"):
        if (entry := param.last(name)) is not None:
            raise net.error(entry.start, f"{name} is not supported yet", "apply it when the data set is written")
    mean_file = param.text("mean_file")
    return TransformSpec(
        scale=param.number("scale", 1.0),
        mirror=param.boolean("mirror"),
        crop_size=param.integer("crop_size"),
        mean_values=tuple(net.number_of(entry) for entry in param.all("mean_value")),
        mean_file=str(resolve(mean_file, folder, working)) if mean_file else "",
    )


def read_data(
    net: Document, layer: Layer, folder: Path, working: Path, iter_size: int, open_data: OpenDataSet
) -> DataSpec:
    """The TRAIN data layer and its data set."""
    param = layer.fields.message("data_param")
    if param is None or param.last("source") is None:
        raise net.error(layer.place.start, f"layer {layer.name!r} has no data_param.source", "name the LMDB there")
    backend = param.text("backend", "LEVELDB")
    if backend not in {"LMDB", "1"}:
        raise net.error(
            layer.place.start, f"layer {layer.name!r} reads {backend}", "use backend: LMDB, others are not supported yet"
        )
    entry = param.all("source")[-1]
    source = resolve(net.scalar_of(entry).text, folder, working).absolute()
    batch = param.integer("batch_size")
    if batch <= 0:
        raise net.error(layer.place.start, f"layer {layer.name!r} has no batch_size", "add data_param.batch_size")
    try:
        data = open_data("lmdb", str(source))
        channels, height, width = data.shape
    except DataError as error:
        line, _ = net.place(entry.start)
        raise DataError(f"{net.name}:{line}: layer {layer.name!r}: {error.message}", remedy=error.remedy) from None
    if batch > data.records:
        raise net.error(
            layer.place.start,
            f"batch_size {batch} exceeds the {data.records} records of {source}",
            "choose a smaller batch",
        )
    transform = read_transform(net, layer, folder, working)
    crop = transform.crop_size
    if crop > min(height, width):
        raise net.error(layer.place.start, f"crop_size {crop} exceeds the records' {height}×{width}", "crop less")
    if transform.mean_values and len(transform.mean_values) not in {1, channels}:
        raise net.error(layer.place.start, f"{len(transform.mean_values)} mean values for {channels} channels",
                        "give one, or one for each channel")
    shapes = [(channels, crop or height, crop or width), ()]
    if not 1 <= len(layer.tops) <= len(shapes):
        raise net.error(layer.place.start, f"layer {layer.name!r} has {len(layer.tops)} tops", "give data and label")
    chunk_records = choose_chunk_records(data.records, batch, iter_size)
    return DataSpec(
        layer=layer.name,
        backend="lmdb",
        source=str(source),
        records=data.records,
        chunk_records=chunk_records,
        chunk_keys=data.chunk_keys(chunk_records),
        batch_records=batch,
        tops=tuple(TopSpec(top, shape) for top, shape in zip(layer.tops, shapes, strict=False)),
        transform=transform,
    )


def located(net: Document, folder: Path, working: Path) -> str:
    """The net's text with the paths of its data layers made absolute, so that any process can read it anywhere."""
    edits = []
    for layer in layers_of(net.root):
        for param in ("data_param", "transform_param"):
            message = layer.fields.message(param)
            for entry in () if message is None else (*message.all("source"), *message.all("mean_file")):
                path = resolve(net.scalar_of(entry).text, folder, working).absolute()
                quoted = str(path).replace("\\", "\\\\").replace('"', '\\"')
                edits.append((entry.start, entry.end, f'{entry.name}: "{quoted}"'))
    return edited(net.text, edits)


def read_job(
    name: str, path: Path, settings: JobSettings, open_data: OpenDataSet, working: Path | None = None
) -> JobSpec:
    """The job that a solver file describes. Raises ModelError or DataError with file and line."""
    working = working or Path.cwd()
    solver = Document(read_text(path, "solver"), str(path))
    root = solver.root
    schedule = read_schedule(solver)
    iter_size = root.integer("iter_size", 1)
    net = find_net(solver, path.absolute(), working)
    if root.integer("random_seed", -1) >= 0 and settings.seed == JobSettings().seed:
        settings = dataclasses.replace(settings, seed=root.integer("random_seed"))
    state = root.message("train_state")
    stages = frozenset(state.texts("stage")) if state else frozenset()
    source = source_layer(net, net.root, stages)
    data = read_data(net, source, path.absolute().parent, working, iter_size, open_data)
    has_test = any(
        included(layer.fields, "TEST") and not layer.fields.all("bottom") and layer.fields.all("top")
        for layer in layers_of(net.root)
    )
    tested = located(net, path.absolute().parent, working)
    tests = root.all("test_iter")
    return JobSpec(
        name=name,
        solver_text=solver.text,
        train_net_text=tested,
        solver_for_peer=solver_for_peer(solver, net_for_peer(net, source), stages),
        test_net_text=tested if has_test and tests else "",
        test_iter=solver.integer_of(tests[0]) if tests else 0,
        solver_type=root.text("type", "SGD"),
        iter_size=iter_size,
        budget_samples=schedule.max_iter * data.batch_records * iter_size,
        data=data,
        schedule=schedule,
        settings=settings,
    )
