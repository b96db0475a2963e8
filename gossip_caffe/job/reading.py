"""From a user's solver.prototxt to a job: all checks that need no Caffe; messages name file and line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from gossip_caffe.errors import DataError
from gossip_caffe.job.nets import NetState, brings_data, included, layers_of, source_layers
from gossip_caffe.job.paths import Paths, read_text
from gossip_caffe.job.prototxt import Document, edited
from gossip_caffe.job.rewriting import net_for_peer, quoted, solver_for_peer
from gossip_caffe.job.solvers import rate_schedule, solver_type, test_net, train_net
from gossip_caffe.job.sources import Measure, read_data
from gossip_caffe.job.spec import JobSettings, JobSpec

_NAMING_FILES = ("data_param", "transform_param", "hdf5_data_param", "image_data_param", "window_data_param")


def read_job(
    name: str, path: Path, settings: JobSettings, measure: Measure, working: Path | None = None
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
    sources = source_layers(net, net.root, state)
    data = read_data(net, sources, paths, iter_size, schedule.max_iter * iter_size, measure)
    test_iter = root.all("test_iter")
    return JobSpec(
        name=name,
        solver_text=solver.text,
        train_net_text=located(net, paths),
        solver_for_peer=solver_for_peer(solver, net_for_peer(net, sources)),
        test_net_text=read_test_net(solver, net, paths),
        test_iter=solver.integer_of(test_iter[0]) if test_iter else 0,
        solver_type=kind,
        iter_size=iter_size,
        budget_samples=schedule.max_iter * data.batch_records * iter_size,
        data=data,
        schedule=schedule,
        settings=settings,
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
