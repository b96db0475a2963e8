"""The code that a job names: the writer of a job's record chooses code that runs on every machine that trains the job.

A machine runs such code only if its own user has allowed it. This module finds it: user-defined data sets, Python
layers, and layers and settings that make Caffe write files at a place that the job chooses.
"""

from __future__ import annotations

from collections.abc import Iterator

from gossip_caffe.errors import GossipCaffeError, UsageError
from gossip_caffe.job.prototxts.prototxt import Document, Scalar, TextMessage
from gossip_caffe.job.prototxts.rewriting import SOURCE_CLASS, SOURCE_MODULE
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.plain import shown

OPTION = "--allow-code"
ENVIRONMENT = "GOSSIP_CAFFE_ALLOW_CODE"
MOST_SAID = 4
_WRITING_TYPES = frozenset({"HDF5Output", "HDF5_OUTPUT"})
_WRITING_NUMBER = "15"
"""The number of HDF5_OUTPUT in the enum of older nets."""
_NETS_IN_FILES = frozenset({"net", "train_net", "test_net"})
_SNAPSHOTS = frozenset({"snapshot", "snapshot_prefix"})
_OFF = frozenset({"", "0", "false", "False", "f"})


def check_code(spec: JobSpec, *, allowed: bool) -> None:
    """Raise UsageError when a job names code, or files to write, and this machine has not allowed it."""
    if allowed:
        return
    try:
        found = code_of(spec)
    except GossipCaffeError as error:
        raise UsageError(
            f"job {spec.name!r} cannot be read: {error.message}", remedy="create the job again"
        ) from None
    if found:
        more = f", and {len(found) - MOST_SAID} more" if len(found) > MOST_SAID else ""
        raise UsageError(
            f"job {spec.name!r} names code to be run, or files to be written, on this machine: "
            f"{', '.join(found[:MOST_SAID])}{more}",
            remedy=f"if you trust all users who can write to its etcd, give {OPTION}, or set {ENVIRONMENT}=1",
        )


def code_of(spec: JobSpec) -> tuple[str, ...]:
    """Descriptions of all code in a job, and of all files that it writes. Raises ModelError for an unreadable text."""
    found: dict[str, None] = {}
    fed = [layer.source for test in spec.tests for layer in test.fed]
    for source in (*spec.data.sources, *fed):
        if source.kind == "dataset":
            found[f"the data set {shown(source.path)}, looked for in {shown(source.folder)}"] = None
    solver = Document(spec.solver_for_peer, "solver")
    found.update(dict.fromkeys(_of_solver(solver.root)))
    for text in (spec.solver_for_peer, spec.train_net_text, *(test.text for test in spec.tests)):
        found.update(dict.fromkeys(_of_message(Document(text, "net").root)))
    return tuple(found)


def _of_solver(root: TextMessage) -> Iterator[str]:
    for entry in root.fields:
        value = entry.value.text if isinstance(entry.value, Scalar) else ""
        if entry.name in _NETS_IN_FILES:
            yield f"a net in the file {shown(value)}"
        elif entry.name in _SNAPSHOTS and value not in _OFF:
            yield f"the solver's {entry.name} {shown(value)}"
        elif entry.name == "snapshot_after_train" and value not in _OFF:
            yield "the solver's snapshot_after_train"


def _of_message(message: TextMessage) -> Iterator[str]:
    """Descriptions of the code in a message, at any depth: these field names mean the same everywhere in Caffe."""
    is_ours = _is_ring_layer(message)
    for entry in message.fields:
        value = entry.value
        if isinstance(value, Scalar):
            if entry.name == "type" and value.text == "Python" and not is_ours:
                yield f"the Python layer {_named(message)}"
            elif entry.name == "type" and value.text in _WRITING_TYPES | {_WRITING_NUMBER}:
                yield f"the HDF5Output layer {_named(message)}"
            continue
        if entry.name == "python_param" and not is_ours:
            yield f"the Python layer {_named(message)}"
        elif entry.name == "hdf5_output_param":
            yield f"the HDF5Output layer {_named(message)}"
        yield from _of_message(value)


def _is_ring_layer(layer: TextMessage) -> bool:
    """True for the layer with which this program brings a peer's batches, and only with exactly its fields.

    The text is compared as it was written, because Caffe's parser knows escapes that ours does not.
    """
    params = layer.messages("python_param")
    wanted = [("module", SOURCE_MODULE), ("layer", SOURCE_CLASS)]
    return len(params) == 1 and all(
        [entry.value.raw for entry in params[0].all(name) if isinstance(entry.value, Scalar)]
        == [f'"{value}"']
        for name, value in wanted
    )


def _named(layer: TextMessage) -> str:
    """The layer's name, and for a Python layer also the import that it makes."""
    modules = [
        f" ({shown(param.text('module'))}, {shown(param.text('layer'))})"
        for param in layer.messages("python_param")
    ]
    return shown(layer.text("name")) + "".join(modules)
