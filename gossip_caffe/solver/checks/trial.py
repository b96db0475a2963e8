"""A trial: Caffe builds a job's nets once in a child process, so that a mistake is reported before the job is made.

Caffe ends its process when it refuses a net. Its message becomes a ModelError that names the user's file and the
layer's line.
"""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from collections.abc import Callable
from typing import Any

from gossip_caffe.errors import EnvironmentProblem, ModelError
from gossip_caffe.job.checks import check_layer_types, check_names, no_loss
from gossip_caffe.job.prototxts.labels.origins import Shapes
from gossip_caffe.job.prototxts.nets import SOURCE_TYPES, Layer
from gossip_caffe.job.prototxts.prototxt import Document, edited
from gossip_caffe.job.prototxts.rewriting import net_to_feed
from gossip_caffe.job.prototxts.source_layers import is_read_here
from gossip_caffe.job.prototxts.sources import Measure, read_tested
from gossip_caffe.job.reading import Model, PhaseNet
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.solver.checks.caffe_errors import abort_of
from gossip_caffe.solver.checks.trial_request import Attempt, Text, Trial
from gossip_caffe.system.children import Child, ChildEnd

SLOW_AFTER_S = 2.0
_LATER_FIELDS = ("weights", "layer_wise_reduce")
DEADLINE_S = 600.0
"""Far more time than the largest nets need."""


def try_with_caffe(
    model: Model, spec: JobSpec, measure: Measure, when_slow: Callable[[], None]
) -> tuple[Shapes, ...]:
    """Let Caffe read and build the net that the job's peers train, and the nets that are tested.

    Returns the shapes of the blobs of the TRAIN net, then of each tested net. ``when_slow`` is called once if it takes
    longer than SLOW_AFTER_S. Raises ModelError or DataError with the file, and with the line if it is known;
    EnvironmentProblem when Caffe cannot be imported.
    """
    nets = (model.train, *model.tests)
    documents = _documents(model.solver, nets)
    attempts = [_as_a_peer(model, spec), *(_tested(model, net, measure) for net in model.tests)]
    texts = tuple(Text(kind, _as_any_caffe_reads(document)) for kind, document in documents)
    trial = Trial(texts, tuple(attempts), spec.data.tops, spec.data.batch_records)
    messages, end = asyncio.run(heard(trial, when_slow))
    said = {kind: message[kind] for message in messages for kind in message}
    if "types" not in said:
        raise EnvironmentProblem(
            f"cannot import caffe: {(end.stderr or ('the process ended without a message',))[-1].strip()}",
            remedy="run 'gossip-caffe doctor', or skip this check with --unchecked",
        )
    if "misread" in said:
        raise _misread(said["misread"], [document for _, document in documents])
    check_layer_types(nets, said["types"])
    if "failed" in said:
        raise _refused(said["failed"], nets, end)
    if end.code != 0:
        raise EnvironmentProblem(
            f"the trial with Caffe ended ({end.how})", remedy="run 'gossip-caffe doctor'"
        )
    found = next(message["found"] for message in messages if message.get("built") == 0)
    if not found["losses"]:
        raise no_loss(model.train)
    check_names(model.train, found["learned"])
    return tuple(message["found"]["shapes"] for message in messages if "built" in message)


def ask_schema(solver: Document, nets: tuple[PhaseNet, ...], when_slow: Callable[[], None]) -> None:
    """Let Caffe read the texts and list its layer types; no net is built.

    Raises ModelError for a field or a layer type that this Caffe does not have: no other edit of the files would help.
    Without an importable Caffe it returns without a check.
    """
    documents = _documents(solver, nets)
    texts = tuple(Text(kind, _as_any_caffe_reads(document)) for kind, document in documents)
    messages, _ = asyncio.run(heard(Trial(texts, (), (), 0), when_slow))
    said = {kind: message[kind] for message in messages for kind in message}
    if "misread" in said:
        raise _misread(said["misread"], [document for _, document in documents])
    if "types" in said:
        # A source type that this Caffe was built without is not unknown: another check refuses it with a remedy.
        check_layer_types(nets, {*said["types"], *SOURCE_TYPES})


def _documents(solver: Document, nets: tuple[PhaseNet, ...]) -> list[tuple[str, Document]]:
    """Return the user's texts, each once, with their message types; an inline net is part of its solver's text."""
    documents = [("SolverParameter", solver)]
    for net in nets:
        names = {document.name for _, document in documents}
        if net.document.name not in names:
            documents.append(("NetParameter", net.document))
    return documents


def _as_any_caffe_reads(document: Document) -> str:
    """Return the text with fields blanked that only later Caffes know and no peer uses. Line numbers stay the same."""
    spans = {(field.start, field.end) for field in document.root.fields if field.name in _LATER_FIELDS}
    return edited(document.text, [(start, end, " " * (end - start)) for start, end in spans])


def _as_a_peer(model: Model, spec: JobSpec) -> Attempt:
    document = Document(spec.solver_for_peer, "the peer's solver")
    inline = document.root.message("train_net_param") or document.root.message("net_param")
    # The layers correspond to the user's net one by one: each source layer is replaced in its place.
    layers = [] if inline is None else PhaseNet(document, model.train.state, inline).layers
    spans = tuple((layer.place.start, layer.place.end) for layer in layers)
    weights = tuple(file.path for file in spec.start.weights)
    return Attempt(document.text, spans, is_solver=True, weights=weights, state=spec.start.state.path)


def _tested(model: Model, net: PhaseNet, measure: Measure) -> Attempt:
    """Make the attempt for a tested net; inputs with the shapes of the data replace its data layers."""
    fed = [
        read_tested(net.document, layer, model.paths, measure) for layer in net.sources if is_read_here(layer)
    ]
    document = Document(net_to_feed(net.document, net.sources, fed), net.document.name)
    layers = dataclasses.replace(net, document=document).layers
    spans = tuple((layer.place.start, layer.place.end) for layer in layers)
    return Attempt(
        document.text, spans, is_solver=False, level=net.state.level, stages=tuple(sorted(net.state.stages))
    )


async def heard(trial: Trial, when_slow: Callable[[], None]) -> tuple[list[dict[str, Any]], ChildEnd]:
    """Run a trial in a child process. Returns the child's messages, and how it ended."""
    messages: list[dict[str, Any]] = []
    child = Child("gossip_caffe.solver.checks.trial_child", messages.append)
    child.start({"OPENBLAS_NUM_THREADS": "1"})
    slow = asyncio.get_running_loop().call_later(SLOW_AFTER_S, when_slow)
    try:
        child.send({"try": dataclasses.asdict(trial)})
        async with asyncio.timeout(DEADLINE_S):
            return messages, await child.wait()
    except TimeoutError:
        raise EnvironmentProblem(
            f"Caffe has not built the net after {DEADLINE_S:.0f} s",
            remedy="skip this check with --unchecked",
        ) from None
    finally:
        slow.cancel()
        child.signal(signal.SIGKILL)
        await child.wait()


def _misread(said: dict[str, Any], documents: list[Document]) -> ModelError:
    document = documents[said["text"]]
    line, column, what = said["line"], said["column"], said["what"]
    return ModelError(f"{document.name}:{line}:{column}: {what}", remedy="correct the prototxt at that line")


def _refused(said: dict[str, Any], nets: tuple[PhaseNet, ...], end: ChildEnd) -> ModelError:
    net: PhaseNet = nets[said["attempt"]]
    code: int = said["code"]
    files = [told["loading"] for told in said["told"] if "loading" in told]
    if "useless" in (said["told"] or [{}])[-1]:
        return ModelError(f"{files[-1]} does not fit this net", remedy="give a file of this model")
    abort = abort_of(end.stderr)
    if abort is not None:
        who, reason, remedy = "Caffe refused", abort.reason, abort.remedy
    else:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
        who, reason, remedy = "Caffe failed at", f"its process ended ({how}) without a reason", ""
        if code == -signal.SIGKILL:
            remedy = "the machine may be short of memory: use a smaller batch_size"
    if files:
        return ModelError(f"cannot load {files[-1]}: {reason}", remedy="give a file of this model")
    phase = net.state.phase
    if said["layer"] < 0:
        return ModelError(f"{net.document.name}: {who} the {phase} net: {reason}", remedy=remedy)
    layer: Layer = net.layers[said["layer"]]
    return net.document.error(
        layer.place.start, f"{who} layer {layer.name!r} of the {phase} net: {reason}", remedy
    )
