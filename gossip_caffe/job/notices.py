"""Notices about a valid job: differences between the user's files and the training that will happen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gossip_caffe.job.prototxts.own_data import module_and_class, own_layers, reads_rank
from gossip_caffe.job.prototxts.source_layers import FED_TYPES
from gossip_caffe.job.reading import Model
from gossip_caffe.job.spec.spec import JobSpec

_GPU = ("GPU", "1")


def notices(
    model: Model, spec: JobSpec, *, on_gpus: bool = False, peers: int = 0, modules: Sequence[str] = ()
) -> Iterator[str]:
    """One line per notice, with file and line where the notice concerns a line.

    ``on_gpus``: this job's peers are being started on GPUs. ``peers``: the number of peers that are being started, 0
    if it is not known yet. ``modules``: the folders where the net's Python layers are looked for.
    """
    root = model.solver.root
    mode = root.last("solver_mode")
    if mode is not None and root.text("solver_mode") in _GPU and not on_gpus:
        yield (
            f"{model.solver.name}:{mode.line}: solver_mode: GPU is not followed: peers train on the CPU unless a GPU "
            "is named with 'peer start --gpu N' (train, cluster up: --gpu N,N), and pycaffe was built for GPUs "
            "('gossip-caffe doctor' says)"
        )
    rate = root.last("base_lr")
    if rate is not None and spec.schedule.base_lr == 0:
        yield f"{model.solver.name}:{rate.line}: base_lr is 0: nothing is learned, as in Caffe"
    for layer in model.train.sources:
        transform = layer.fields.last("transform_param")
        if layer.type in FED_TYPES and transform is not None:
            yield (
                f"{model.train.document.name}:{transform.line}: transform_param of layer {layer.name!r} is ignored, as "
                "by Caffe: what a program gives is not transformed"
            )
        named = layer.fields.last("source_class")
        if named is not None:
            yield (
                f"{model.train.document.name}:{named.line}: source_class of layer {layer.name!r} is not used: it names "
                "a reader of CaffeOnSpark, with the fields of its own that the layer's parameters have"
            )
    if not spec.data.sources:
        yield (
            f"{model.train.document.name}: the net makes its own data, so there is none to share out: "
            f"the budget is {spec.budget_samples:,} forward passes"
        )
    if peers != 1:
        yield from _alike(model, spec, peers, modules)


def _alike(model: Model, spec: JobSpec, peers: int, modules: Sequence[str]) -> Iterator[str]:
    """Warnings about data that all peers would make alike, as far as the source of the layers' modules shows it."""
    who = f"the {peers} peers" if peers else "all peers of the job"
    for layer in own_layers(model.train.sources):
        module, name = module_and_class(layer)
        where = f"{model.train.document.name}:{layer.place.line}"
        if not reads_rank(module, modules):
            yield (
                f"{where}: WARNING: {who} may train the same records in the same order: layer {layer.name!r} "
                f"({module}.{name}) makes its own data, and each peer begins it at its head. Let it read "
                "caffe.solver_rank() and caffe.solver_count() (or $GOSSIP_CAFFE_RANK and $GOSSIP_CAFFE_COUNT) and make "
                "the records of its rank alone: docs/data.md"
            )
        elif not peers and not spec.settings.layer_ranks:
            yield (
                f"{where}: WARNING: layer {layer.name!r} ({module}.{name}) is told rank 0 of 1 in each peer: say for "
                "how many peers the job is, with --set layer_ranks=N"
            )
